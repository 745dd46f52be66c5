"""The comparison itself: what counts as different, what can be tested, and how it looks, whatever text is in it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from retrace import compared, graph, params, paths
from retrace.commands import compare
from retrace.compared import Against, Comparison
from retrace.compared import page as pages
from retrace.errors import RetraceError
from retrace.provenance.named import NamedExperiment, Resolver


def refused(*names: str) -> str:
    with pytest.raises(RetraceError) as error:
        compare.compare(names, None, as_json=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def named(name: str, test: str = "t", **values: str) -> NamedExperiment:
    deps = {str(paths.TEST): test, "src/retrace/losses.py": "a"}
    return NamedExperiment(name, "an experiment", values, {"test_accuracy": 0.5}, deps, {})


def told_of(*rows: Sequence[float], names: Sequence[str] = ()) -> Comparison:
    """A comparison of experiments with these losses of validation, epoch by epoch."""
    experiments = [named(name) for name in names or [f"e{i}" for i in range(len(rows))]]
    histories = [[{"epoch": i + 1.0, "val_loss": loss} for i, loss in enumerate(row)] for row in rows]
    tests = [Against(each.name, experiments[0].name, why="so") for each in experiments[1:]]
    return Comparison(experiments, {}, {}, {}, tests, histories, [])


class Files(Resolver):
    """Names of experiments whose predictions are these, by the experiment's name."""

    def __init__(self, told: Mapping[str, str]) -> None:
        self.told, self.away = told, ""

    def read_output(self, named: NamedExperiment, path: Path, read: Callable[[Path], Any]) -> Any:
        if path != paths.CONFUSION or named.name not in self.told:
            return None
        Path("told.csv").write_text(self.told[named.name])
        return read(Path("told.csv"))


RIGHT, WRONG = "actual,predicted\n" + "a,a\n" * 40, "actual,predicted\n" + "a,b\n" * 20 + "a,a\n" * 20


@pytest.mark.usefixtures("folder")
def test_several_are_corrected_for_being_several_and_those_that_cannot_be_tested_do_not_count() -> None:
    one, other, torn = named("one"), named("other"), named("torn")
    elsewhere, never = named("elsewhere", test="u"), replace(named("never"), deps={})
    files = Files({"one": RIGHT, "other": WRONG, "third": RIGHT, "elsewhere": RIGHT, "torn": "actual\na\n"})
    found = compared.of(files, [one, other, named("third"), elsewhere, never, torn])
    assert [test.verdict for test in found.tests] == [
        "worse", "no difference that these 40 samples can show", *["not tested"] * 3
    ]  # fmt: skip
    first, third = (test for test in found.tests if test.pairs)
    assert first.pairs
    assert third.pairs
    assert (first.p, third.p) == (2 * first.pairs.p, 1.0)
    said = [compared.sentence(test, 2) for test in found.tests]
    assert f"p = {first.pairs.p:.2g}, {first.p:.2g} as one of 2 tests" in said[0]
    assert said[2].endswith(
        "for they were tested on other samples: data/processed/test.safetensors is not the same file"
    )
    assert said[3].endswith("for never has not been tested")
    assert said[4].endswith("for what torn predicted is neither in DVC's cache nor in MLflow; run it again")


@pytest.mark.usefixtures("folder")
def test_files_that_one_did_not_need_do_not_differ_and_those_that_changed_do() -> None:
    one, other = named("one", lr="1"), named("other", lr="1", momentum="2")
    other = replace(other, deps={**other.deps, "src/retrace/losses.py": "b", "src/retrace/models/cnn.py": "c"})
    found = compared.of(Files({}), [one, other])
    assert found.params == {"momentum": [None, "2"]}
    assert found.files == {"src/retrace/losses.py": ["a", "b"]}


HOSTILE = "</title><script>alert(1)</script>[red]x[/red]\x1b[31m\n&"


@pytest.mark.usefixtures("folder")
def test_text_is_shown_as_it_is_and_never_as_markup(
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


@pytest.mark.parametrize(
    ("rows", "ticks"),
    [
        ([[0.5, 0.02], [0.4, 0.09]], ["0.02", "0.05", "0.1", "0.2", "0.5"]),
        ([[3.2, 3.6]], ["3.2", "3.25", "3.3", "3.35", "3.4", "3.45", "3.5", "3.55", "3.6"]),
        ([[0.0, 4.0]], ["0", "0.5", "1", "1.5", "2", "2.5", "3", "3.5", "4"]),
        ([[1e-9, 100.0]], ["1e-09", "1e-07", "1e-05", "0.001", "0.1", "10"]),
        ([[0.7]], None),
        ([[0.7], [math.nan, 0.7, math.inf]], None),
    ],
)
def test_a_chart_has_a_few_round_ticks_and_all_points_inside(rows: list[list[float]], ticks: list[str] | None) -> None:
    (chart,) = pages.charts([f"e{i}" for i in range(len(rows))], told_of(*rows).histories)
    assert ticks is None or [said for _, said in chart.y_ticks] == ticks
    assert 1 <= len(chart.y_ticks) <= pages.TICKS + 1
    assert all("." not in said for _, said in chart.x_ticks)
    drawn = [point for line in chart.lines for point in line.points]
    assert len(drawn) == sum(math.isfinite(loss) for row in rows for loss in row)
    assert all(pages.LEFT <= x <= pages.WIDTH - pages.MARGIN for x, _, _ in drawn)
    assert all(pages.MARGIN <= y <= pages.HEIGHT - pages.BOTTOM for _, y, _ in drawn)


def test_experiments_without_curves_have_a_page_without_charts() -> None:
    page = pages.page(told_of([], [], names=["a", "b"]))
    assert "<svg" not in page
    assert "b against a: no test of the difference, for so" in page


def test_many_experiments_and_long_curves_are_drawn() -> None:
    (chart,) = pages.charts([str(i) for i in range(10)], told_of(*[[1.0 / (i + 1) for i in range(200)]] * 10).histories)
    assert [line.number for line in chart.lines] == [*range(8), 0, 1]
    assert not any(line.has_dots for line in chart.lines)


def test_what_a_stage_left_over_from_another_experiment_is_not_told(folder: Path) -> None:
    stages = graph.stages(params.read())
    md5 = {out: f"{i:032}" for i, out in enumerate(out for stage in stages.values() for out in stage.outs)}
    lock = {
        name: {
            "deps": [{"path": dep, "md5": md5.get(dep, "code")} for dep in stage.deps],
            "params": {"params.yaml": params.chosen(params.read(), params.STAGES[name])},
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
    assert "workspace: the workspace has a dvc.lock that is not as DVC has it" in refused("workspace", "workspace")
