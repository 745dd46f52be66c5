"""Comparisons: what differs, what can be tested, and how it is printed."""

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
from retrace.pipeline import loading, params_yaml
from retrace.provenance.resolve import NamedExperiment, Resolver


def refused(*names: str) -> str:
    """Return the one line with which a comparison is refused."""
    with pytest.raises(RetraceError) as error:
        compare.compare(names, None, as_json=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def named(name: str, test: str = "t", **values: str) -> NamedExperiment:
    deps = {str(paths.TEST): test, "src/lab/training/losses.py": "a"}
    return NamedExperiment(name, "an experiment", values, {"test_accuracy": 0.5}, deps, {})


def comparison_of(*rows: Sequence[float], names: Sequence[str] = ()) -> Comparison:
    """Return a comparison of experiments with these validation losses, a row an experiment."""
    experiments = [named(name) for name in names or [f"e{i}" for i in range(len(rows))]]
    histories = [
        [{"epoch": i + 1.0, "val_loss": loss} for i, loss in enumerate(row)] for row in rows
    ]
    tests = [PairedTest(each.name, experiments[0].name, why="so") for each in experiments[1:]]
    return Comparison(experiments, {}, {}, {}, tests, histories, [])


class Files(Resolver):
    """Resolver of experiments with the given predictions, as CSV by the experiment's name."""

    def __init__(self, predictions: Mapping[str, str]) -> None:
        self.predictions = predictions
        self.unavailable = ""

    def read_output(self, named: NamedExperiment, path: Path, read: Callable[[Path], Any]) -> Any:
        if path != paths.CONFUSION or named.name not in self.predictions:
            return None
        file = Path("predictions.csv")
        file.write_text(self.predictions[named.name])
        return read(file)


CORRECT = "actual,predicted\n" + "a,a\n" * 40
HALF_CORRECT = "actual,predicted\n" + "a,b\n" * 20 + "a,a\n" * 20


@pytest.mark.usefixtures("folder")
def test_tests_are_corrected_for_their_number() -> None:
    one, other, torn = named("one"), named("other"), named("torn")
    elsewhere = named("elsewhere", test="u")
    never = replace(named("never"), deps={})
    files = Files(
        {
            "one": CORRECT,
            "other": HALF_CORRECT,
            "third": CORRECT,
            "elsewhere": CORRECT,
            "torn": "actual\na\n",
        }
    )
    result = comparison.compare(files, [one, other, named("third"), elsewhere, never, torn])
    assert [test.verdict for test in result.tests] == [
        "worse", "no significant difference on these 40 samples", *["not tested"] * 3
    ]  # fmt: skip
    first, third = (test for test in result.tests if test.pairs)
    assert first.pairs
    assert third.pairs
    assert (first.p, third.p) == (2 * first.pairs.p, 1.0)
    sentences = [comparison.sentence(test, 2) for test in result.tests]
    assert f"p = {first.pairs.p:.2g}, {first.p:.2g} corrected for 2 tests" in sentences[0]
    for text, reason in zip(
        sentences[2:],
        (str(paths.TEST), "never was not evaluated", "torn cannot be used: its column 'predicted'"),
        strict=True,
    ):
        assert reason in text


@pytest.mark.usefixtures("folder")
def test_files_differ_only_where_both_use_them() -> None:
    one = named("one", lr="1")
    other = named("other", lr="1", momentum="2")
    other = replace(
        other,
        deps={
            **other.deps,
            "src/lab/training/losses.py": "b",
            "src/lab/models/networks/cnn.py": "c",
        },
    )
    result = comparison.compare(Files({}), [one, other])
    assert result.params == {"momentum": [None, "2"]}
    assert result.files == {"src/lab/training/losses.py": ["a", "b"]}


HOSTILE = "</title><script>alert(1)</script>[red]x[/red]\x1b[31m\n&"


@pytest.mark.usefixtures("folder")
def test_text_is_never_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [named(HOSTILE, lr=HOSTILE), named("other", lr="1")]
    monkeypatch.setattr(Resolver, "resolve", lambda _, name: both[name == "other"])
    compare.compare([HOSTILE, "other"], Path("page.html"), as_json=False)
    printed = capsys.readouterr().out
    page = Path("page.html").read_text()
    assert "</script>[red]x[/red]\\x1b[31m\\n&" in printed
    assert "\x1b" not in printed
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;[red]x[/red]") > 3


@pytest.mark.usefixtures("folder")
def test_markdown_is_a_table_without_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "|a|<b>`c`\n# d [e](f) *g* @h"
    both = [named("one", lr="1"), named("other", lr=hostile)]
    monkeypatch.setattr(Resolver, "resolve", lambda _, name: both[name == "other"])
    compare.compare(["one", "other"], None, as_markdown=True)
    blocks = capsys.readouterr().out.split("\n\n")
    rows = [line.split(" | ") for line in blocks[1].splitlines()]
    assert rows[0] == ["| parameter", "one", "other |"]
    assert rows[1] == ["| ---", "---", "--- |"]
    assert [len(row) for row in rows] == [3, 3, 3]
    assert rows[2][2] == r"\|a\|\<b\>\`c\`\\n\# d \[e\](f) \*g\* \@h |"
    assert "| metric | one | other | difference |\n| --- | ---: | ---: | ---: |" in blocks[2]
    assert "| test\\_accuracy | 0.5 | 0.5 | 0 |" in blocks[2]
    assert blocks[3].startswith("- other against one: not tested")


@pytest.mark.usefixtures("folder")
def test_markdown_without_differences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Resolver, "resolve", lambda _, name: named(name, lr="1"))
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
    (chart,) = pages.charts([f"e{i}" for i in range(len(rows))], comparison_of(*rows).histories)
    assert 1 <= len(chart.y.ticks) <= 9
    assert all("." not in text for _, text in chart.x.ticks)
    markers = [marker for line in chart.lines for marker in line.markers]
    assert len(markers) == sum(math.isfinite(loss) for row in rows for loss in row)
    assert all(0 <= marker.x <= svg.WIDTH for marker in markers)
    assert all(0 <= marker.y <= svg.HEIGHT for marker in markers)


def test_page_without_curves() -> None:
    page = pages.page(comparison_of([], [], names=["a", "b"]))
    assert "<svg" not in page
    assert "b against a: not tested, because so" in page


def test_chart_of_many_experiments() -> None:
    (chart,) = pages.charts(
        [str(i) for i in range(10)],
        comparison_of(*[[1.0 / (i + 1) for i in range(200)]] * 10).histories,
    )
    assert [line.color for line in chart.lines] == [*range(8), 0, 1]
    assert not any(line.markers for line in chart.lines)


def test_workspace_ignores_stale_outputs(folder: Path) -> None:
    pipeline = loading.load(Path())
    md5 = {out: f"{i:032}" for i, out in enumerate(pipeline.makers)}
    lock = {
        name: {
            "cmd": stage.commands[0],
            "deps": [
                {"path": dep, "hash": "md5", "md5": md5.get(dep, "code")} for dep in stage.deps
            ],
            "params": {"params.yaml": params.chosen(params_yaml.read(), params.STAGES[name])},
            "outs": [{"path": o.path, "hash": "md5", "md5": md5[o.path]} for o in stage.outs],
        }
        for name, stage in pipeline.stages.items()
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    lock["train"]["outs"][0]["md5"] = "another network's"
    (note,) = Resolver().resolve("workspace").notes
    assert str(paths.METRICS) in note
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    experiment = Resolver().resolve("workspace")
    (note,) = experiment.notes
    assert note.startswith("evaluate, visualize ")
    assert "`dvc repro`" in note
    assert str(paths.WEIGHTS) in experiment.outs
    assert str(paths.CONFUSION) not in experiment.outs
    assert experiment.metrics == {}
    Path("dvc.lock").write_text("<<<<<<< HEAD\n")
    message = refused("workspace", "workspace")
    assert message.startswith("workspace: ")
    assert "dvc.lock" in message
