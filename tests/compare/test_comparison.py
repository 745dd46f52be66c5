"""The comparison itself: what counts as different, what can be tested, and how it looks, whatever text is in it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import params, paths
from retrace.cli import compare
from retrace.compare import comparison, svg
from retrace.compare import page as pages
from retrace.compare.comparison import Comparison, PairedTest
from retrace.errors import RetraceError
from retrace.pipeline import graph, params_file
from retrace.provenance.resolve import NamedExperiment, Resolver


def refused(*names: str) -> str:
    with pytest.raises(RetraceError) as error:
        compare.compare(names, None, as_json=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def named(name: str, test: str = "t", **values: str) -> NamedExperiment:
    deps = {str(paths.TEST): test, "src/lab/training/losses.py": "a"}
    return NamedExperiment(name, "an experiment", values, {"test_accuracy": 0.5}, deps, {})


def told_of(*rows: Sequence[float], names: Sequence[str] = ()) -> Comparison:
    """A comparison of experiments with these losses of validation, epoch by epoch."""
    experiments = [named(name) for name in names or [f"e{i}" for i in range(len(rows))]]
    histories = [
        [{"epoch": i + 1.0, "val_loss": loss} for i, loss in enumerate(row)] for row in rows
    ]
    tests = [PairedTest(each.name, experiments[0].name, why="so") for each in experiments[1:]]
    return Comparison(experiments, {}, {}, {}, tests, histories, [])


class Files(Resolver):
    """Resolver of experiments whose predictions are these, by the experiment's name."""

    def __init__(self, told: Mapping[str, str]) -> None:
        self.told, self.away = told, ""

    def read_output(self, named: NamedExperiment, path: Path, read: Callable[[Path], Any]) -> Any:
        if path != paths.CONFUSION or named.name not in self.told:
            return None
        Path("told.csv").write_text(self.told[named.name])
        return read(Path("told.csv"))


RIGHT, WRONG = (
    "actual,predicted\n" + "a,a\n" * 40,
    "actual,predicted\n" + "a,b\n" * 20 + "a,a\n" * 20,
)


@pytest.mark.usefixtures("folder")
def test_tests_are_corrected_for_their_number() -> None:
    one, other, torn = named("one"), named("other"), named("torn")
    elsewhere, never = named("elsewhere", test="u"), replace(named("never"), deps={})
    files = Files(
        {"one": RIGHT, "other": WRONG, "third": RIGHT, "elsewhere": RIGHT, "torn": "actual\na\n"}
    )
    found = comparison.compare(files, [one, other, named("third"), elsewhere, never, torn])
    assert [test.verdict for test in found.tests] == [
        "worse", "no significant difference on these 40 samples", *["not tested"] * 3
    ]  # fmt: skip
    first, third = (test for test in found.tests if test.pairs)
    assert first.pairs
    assert third.pairs
    assert (first.p, third.p) == (2 * first.pairs.p, 1.0)
    said = [comparison.sentence(test, 2) for test in found.tests]
    assert f"p = {first.pairs.p:.2g}, {first.p:.2g} corrected for 2 tests" in said[0]
    assert said[2].endswith(
        "because they were evaluated on other samples: data/processed/test.safetensors is not the same file"
    )
    assert said[3].endswith("because never was not evaluated")
    assert said[4].endswith(
        "because the predictions of torn are neither in DVC's cache nor in MLflow; run it again"
    )


@pytest.mark.usefixtures("folder")
def test_files_differ_only_where_both_use_them() -> None:
    one, other = named("one", lr="1"), named("other", lr="1", momentum="2")
    other = replace(
        other,
        deps={
            **other.deps,
            "src/lab/training/losses.py": "b",
            "src/lab/models/networks/cnn.py": "c",
        },
    )
    found = comparison.compare(Files({}), [one, other])
    assert found.params == {"momentum": [None, "2"]}
    assert found.files == {"src/lab/training/losses.py": ["a", "b"]}


HOSTILE = "</title><script>alert(1)</script>[red]x[/red]\x1b[31m\n&"


@pytest.mark.usefixtures("folder")
def test_text_is_never_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [named(HOSTILE, lr=HOSTILE), named("other", lr="1")]
    monkeypatch.setattr(Resolver, "resolve", lambda _, name: both[name == "other"])
    compare.compare([HOSTILE, "other"], Path("page.html"), as_json=False)
    said, page = capsys.readouterr().out, Path("page.html").read_text()
    assert "</script>[red]x[/red]\\x1b[31m\\n&" in said
    assert "\x1b" not in said
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;[red]x[/red]") > 3


@pytest.mark.usefixtures("folder")
def test_markdown_is_a_table_without_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "|a|<b>`c`\n# d [e](f) *g* @h"
    both = [named("one", lr="1"), named("other", lr=hostile)]
    monkeypatch.setattr(Resolver, "find", lambda _, name: both[name == "other"])
    compare.compare(["one", "other"], None, as_markdown=True)
    blocks = capsys.readouterr().out.split("\n\n")
    rows = [line.split(" | ") for line in blocks[1].splitlines()]
    assert rows[0] == ["| parameter", "one", "other |"]
    assert rows[1] == ["| ---", "---", "--- |"]
    assert [len(row) for row in rows] == [3, 3, 3]
    assert rows[2][2] == r"\|a\|\<b\>\`c\`\\n\# d \[e\](f) \*g\* \@h |"
    assert "| metric | one | other | difference |\n| --- | ---: | ---: | ---: |" in blocks[2]
    assert "| test\\_accuracy | 0.5 | 0.5 | 0 |" in blocks[2]
    assert blocks[3].startswith("- other against one: no test of the difference")


@pytest.mark.usefixtures("folder")
def test_markdown_without_differences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Resolver, "find", lambda _, name: named(name, lr="1"))
    compare.compare(["one", "other"], Path("page.html"), as_markdown=True)
    printed = capsys.readouterr()
    assert printed.out.split("\n\n")[1] == "no parameter differs"
    assert "page.html" in printed.err
    assert "--html" not in printed.out


@pytest.mark.parametrize(
    "rows",
    [
        [[0.5, 0.02], [0.4, 0.09]],
        [[3.2, 3.6]],
        [[0.0, 4.0]],
        [[1e-9, 100.0]],
        [[0.7]],
        [[0.7], [math.nan, 0.7, math.inf]],
    ],
)
def test_chart_has_every_finite_value(rows: list[list[float]]) -> None:
    (chart,) = pages.charts([f"e{i}" for i in range(len(rows))], told_of(*rows).histories)
    assert 1 <= len(chart.y.ticks) <= 9
    assert all("." not in text for _, text in chart.x.ticks)
    markers = [marker for line in chart.lines for marker in line.markers]
    assert len(markers) == sum(math.isfinite(loss) for row in rows for loss in row)
    assert all(0 <= marker.x <= svg.WIDTH for marker in markers)
    assert all(0 <= marker.y <= svg.HEIGHT for marker in markers)


def test_page_without_curves() -> None:
    page = pages.page(told_of([], [], names=["a", "b"]))
    assert "<svg" not in page
    assert "b against a: not tested, because so" in page


def test_chart_of_many_experiments() -> None:
    (chart,) = pages.charts(
        [str(i) for i in range(10)], told_of(*[[1.0 / (i + 1) for i in range(200)]] * 10).histories
    )
    assert [line.colour for line in chart.lines] == [*range(8), 0, 1]
    assert not any(line.markers for line in chart.lines)


def test_workspace_ignores_stale_outputs(folder: Path) -> None:
    stages = graph.stages(params_file.read())
    md5 = {
        out: f"{i:032}"
        for i, out in enumerate(out for stage in stages.values() for out in stage.outs)
    }
    lock = {
        name: {
            "deps": [{"path": dep, "md5": md5.get(dep, "code")} for dep in stage.deps],
            "params": {"params.yaml": params.chosen(params_file.read(), params.STAGES[name])},
            "outs": [{"path": out, "md5": md5[out]} for out in stage.outs],
        }
        for name, stage in stages.items()
    }
    graph.LOCK.write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    lock["train"]["outs"][0]["md5"] = "another network's"
    assert Resolver().resolve("workspace").notes == (
        f"what evaluate made as {paths.METRICS} is nowhere: no figures of it",
    )
    graph.LOCK.write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    found = Resolver().resolve("workspace")
    assert found.notes == (
        "evaluate, visualize did not run since a stage before made other files: left out; `dvc repro` runs the rest",
    )
    assert str(paths.WEIGHTS) in found.outs
    assert str(paths.CONFUSION) not in found.outs
    assert found.metrics == {}
    graph.LOCK.write_text("<<<<<<< HEAD\n")
    assert "workspace: the workspace has a dvc.lock that is not as DVC has it" in refused(
        "workspace", "workspace"
    )
