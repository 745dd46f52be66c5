"""Predictions: their table, their kind, and whether two tables have the same samples."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrace.compare import predictions
from retrace.compare.predictions import Predicted
from retrace.compare.significance import Paired, PairedErrors
from retrace.pipeline.definition import Pipeline
from retrace.provenance.resolve import NamedExperiment, Resolver
from retrace.settings import PredictionsTable, Settings

EXPERIMENT = NamedExperiment("one", "an experiment", {}, {}, {}, {})


class Files(Resolver):
    """Resolver that reads the work tree, as a file without a suffix, as DVC's cache has them."""

    def __init__(self) -> None:
        self.unavailable = ""

    def read_output(self, named: NamedExperiment, path: Path, read: Callable[[Path], Any]) -> Any:
        del named
        if not path.exists():
            return None
        cached = path.with_suffix("")
        cached.write_bytes(path.read_bytes())
        return read(cached)


def read(path: Path, **columns: str) -> Predicted | str:
    return predictions.read(Files(), EXPERIMENT, PredictionsTable(str(path), **columns))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "actual,predicted,more\n1,2,x\n3,4,\n"),
        ("p.tsv", "actual\tpredicted\n1\t2\n3\t4\n"),
        ("p.json", json.dumps([{"actual": 1, "predicted": 2}, {"actual": 3, "predicted": 4}])),
        ("p.json", '{"cm": [{"actual": "1", "predicted": "2"}, {"actual": 3, "predicted": 4}]}'),
        ("p.jsonl", '{"actual": 1, "predicted": 2}\n\n{"actual": 3, "predicted": 4}\n'),
    ],
)
def test_format_is_that_of_the_suffix(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read(tmp_path / name) == Predicted(["1", "3"], ["2", "4"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("actual,predicted\n", "has no rows"),
        ("actual,guess\na,b\n", "'predicted' is missing; it has actual, guess"),
        ("actual,predicted\na,\n", "'predicted' has empty cells"),
        ("actual,predicted\na\n", "'predicted' has empty cells"),
    ],
)
def test_fault_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    problem = read(tmp_path / "p.csv")
    assert isinstance(problem, str)
    assert reason in problem
    assert "\n" not in problem


def test_rows_are_in_the_order_of_ids(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("n,actual,predicted\nb,1,2\na,3,4\n")
    assert read(tmp_path / "p.csv", id="n") == Predicted(["3", "1"], ["4", "2"], ["a", "b"])
    (tmp_path / "p.csv").write_text("n,actual,predicted\na,1,2\na,3,4\n")
    assert "the same id twice" in str(read(tmp_path / "p.csv", id="n"))


def test_rows_must_correspond() -> None:
    table = PredictionsTable("p.csv", id="n")
    one = Predicted(["1", "2"], ["1", "1"], ["a", "b"])
    assert predictions.mismatch(one, Predicted(["1.0", "2.0"], ["2", "2"], ["a", "b"]), table) == ""
    for other in (
        Predicted(["2", "1"], ["1", "1"], ["a", "b"]),
        Predicted(["1", "2"], ["1", "1"], ["a", "c"]),
        Predicted(["1"], ["1"], ["a"]),
    ):
        assert "different samples" in predictions.mismatch(one, other, table)


@pytest.mark.parametrize(
    ("actual", "first", "second", "kind"),
    [
        (["a", "b"], ["a", "a"], ["a", "b"], Paired),
        (["0", "1"], ["1", "1"], ["0", "1"], Paired),
        (["0.0", "1.0"], ["1", "1"], ["0", "1"], Paired),
        (["0", "nan"], ["0.5", "nan"], ["0", "nan"], Paired),
        (["0", "1"], ["0.25", "1"], ["0", "1"], PairedErrors),
        (["1e3", "2"], ["1e3", "2.5"], ["1e3", "2"], PairedErrors),
    ],
)
def test_kind_is_that_of_the_values(
    actual: list[str], first: list[str], second: list[str], kind: type
) -> None:
    pairs = predictions.test(Predicted(actual, first), Predicted(actual, second))
    assert isinstance(pairs, kind)
    assert pairs.is_second_better


def test_test_split_is_preferred() -> None:
    tables = [PredictionsTable(f"{name}.csv") for name in ("train", "test", "more")]
    pipeline = Pipeline({}, predictions=tuple(tables))
    assert predictions.declared(pipeline, Settings()) == tables[1]
    assert (
        predictions.declared(Pipeline({}, predictions=(tables[0], tables[2])), Settings())
        == (tables[2])
    )
    own = PredictionsTable("own.csv")
    assert predictions.declared(pipeline, Settings(predictions=own)) == own
    assert predictions.declared(Pipeline({}), Settings()) is None
