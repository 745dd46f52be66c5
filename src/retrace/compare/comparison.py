"""Compare experiments: parameters and files that differ, metrics, and significance tests."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrace import settings
from retrace.compare import significance
from retrace.compare.significance import SIGNIFICANT, Paired
from retrace.provenance.resolve import NamedExperiment, Resolver

FILES = ("src/", "stages/", "data/")  # folders of the files that determine a result
FIGURES = "figures."  # parameters that an experiment lacks until its figures are drawn

History = Sequence[Mapping[str, float]]  # one row per epoch
Predicted = tuple[list[str], list[str]]  # true and predicted class of each test sample


@dataclass(frozen=True)
class PairedTest:
    """One experiment compared with the first on the test samples, or `why` this is impossible.

    `p` is corrected for the number of tests.
    """

    name: str
    first: str
    pairs: Paired | None = None
    p: float = 1.0
    why: str = ""

    @property
    def verdict(self) -> str:
        """The result in a few words."""
        if self.pairs is None:
            return "not tested"
        if self.p >= SIGNIFICANT:
            return f"no significant difference on these {self.pairs.n_samples:,} samples"
        return "better" if self.pairs.difference > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """Experiments side by side: each value is a row, with None where an experiment has none.

    `params`, and `files` with the MD5s of code and data, have only rows that differ. A file that
    only some experiments use does not count. `tests` are of all experiments but the first.
    """

    experiments: Sequence[NamedExperiment]
    params: Mapping[str, Sequence[str | None]]
    files: Mapping[str, Sequence[str | None]]
    metrics: Mapping[str, Sequence[float | None]]
    tests: Sequence[PairedTest]
    histories: Sequence[History]
    notes: Sequence[str]


def compare(names: Resolver, experiments: Sequence[NamedExperiment]) -> Comparison:
    """Compare experiments that were looked up in `names`."""
    predicted = [_read(names, each, settings.CONFUSION, _read_predicted) for each in experiments]
    histories = [_read(names, each, settings.HISTORY, _read_history) for each in experiments]
    params = _differing(_side_by_side(each.params for each in experiments))
    files = _side_by_side(
        {path: md5 for path, md5 in each.deps.items() if path.startswith(FILES)}
        for each in experiments
    )
    notes = [f"{each.name}: {note}" for each in experiments for note in each.notes]
    if names.unavailable:
        notes.append(f"data that only MLflow has is missing: {names.unavailable}")
    return Comparison(
        experiments,
        params={
            key: row for key, row in params.items() if not (key.startswith(FIGURES) and None in row)
        },
        files={path: md5s for path, md5s in files.items() if len({*md5s} - {None}) > 1},
        metrics=_side_by_side(each.metrics for each in experiments),
        tests=_tests(experiments, predicted),
        histories=[history or () for history in histories],
        notes=notes,
    )


def difference(values: Sequence[float | None], at: int) -> float | None:
    """Return a value minus the first, or None if one of them is missing."""
    first = values[0]
    value = values[at]
    return None if first is None or value is None else value - first


def sentence(test: PairedTest, n_tests: int) -> str:
    """Describe the result of a test in up to three lines."""
    pair = test.pairs
    about = f"{test.name} against {test.first}"
    if pair is None:
        return f"{about}: not tested, because {test.why}"
    low, high = (f"{100 * end:+.2f}" for end in pair.interval)
    holm = f", {test.p:.2g} corrected for {n_tests} tests" if n_tests > 1 else ""
    return (
        f"{about}: {test.verdict}\n"
        f"  of the same {pair.n_samples:,} test samples, only {test.name} classifies "
        f"{pair.only_second:,} correctly, only {test.first} {pair.only_first:,}\n"
        f"  accuracy {100 * pair.difference:+.2f} points (95 % CI: {low}..{high}), "
        f"p = {pair.p:.2g}{holm}"
    )


def shown(value: float | None) -> str:
    """Format a metric."""
    return "-" if value is None else f"{value:.6g}"


def change(values: Sequence[float | None], at: int) -> str:
    """Format a value minus the first, with a sign."""
    by = difference(values, at)
    if by is None:
        return "-"
    return f"{by:+.3g}" if by else "0"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return a document for scripts; numbers that JSON cannot hold, such as NaN, are null."""
    return {
        "experiments": [
            {
                "name": each.name,
                "is": each.description,
                "params": dict(each.params),
                "metrics": {name: _finite(value) for name, value in each.metrics.items()},
                "history": [
                    {name: _finite(value) for name, value in row.items()} for row in history
                ],
            }
            for each, history in zip(comparison.experiments, comparison.histories, strict=True)
        ],
        "params": comparison.params,
        "files": comparison.files,
        "metrics": {
            name: {
                "values": [_finite(value) for value in values],
                "differences": [_finite(difference(values, at)) for at in range(len(values))],
            }
            for name, values in comparison.metrics.items()
        },
        "tests": [_test_as_json(test) for test in comparison.tests],
        "notes": comparison.notes,
    }


def _test_as_json(test: PairedTest) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": test.name,
        "against": test.first,
        "verdict": test.verdict,
    }
    if test.pairs is None:
        return document | {"why": test.why}
    return document | vars(test.pairs) | {"p_corrected": test.p}


def _tests(
    experiments: Sequence[NamedExperiment], predicted: Sequence[Predicted | None]
) -> list[PairedTest]:
    """Test every other experiment against the first, with Holm's correction."""
    first = experiments[0]
    reasons = {}
    pairs = dict[int, Paired]()
    for at in range(1, len(experiments)):
        ours = predicted[0]
        theirs = predicted[at]
        reasons[at] = _untestable(first, experiments[at], ours, theirs)
        if not reasons[at] and ours and theirs:
            pairs[at] = significance.mcnemar(_is_correct(ours), _is_correct(theirs))
    ps = dict(zip(pairs, significance.corrected([pair.p for pair in pairs.values()]), strict=True))
    return [
        PairedTest(experiments[at].name, first.name, pairs.get(at), ps.get(at, 1.0), why)
        for at, why in reasons.items()
    ]


def _untestable(
    first: NamedExperiment,
    second: NamedExperiment,
    ours: Predicted | None,
    theirs: Predicted | None,
) -> str:
    """Return why two experiments cannot be tested in pairs, or an empty string."""
    test = str(settings.TEST)
    for each in (first, second):
        if test not in each.deps:
            return f"{each.name} was not evaluated"
    if second.deps[test] != first.deps[test]:
        return f"they were evaluated on different test samples: {test} differs"
    for each, predicted in ((first, ours), (second, theirs)):
        if predicted is None:
            missing = "are neither in DVC's cache nor in MLflow; run it again"
            return f"the predictions of {each.name} {missing}"
    if ours and theirs and ours[0] != theirs[0]:
        differ = f"the classes in {settings.CONFUSION} differ"
        return f"their predictions are for different test samples: {differ}"
    return ""


def _is_correct(predicted: Predicted) -> np.ndarray:
    """Return which samples are correctly classified (n,)."""
    return np.array([true == other for true, other in zip(*predicted, strict=True)], dtype=bool)


def _read(names: Resolver, named: NamedExperiment, path: Path, read: Callable[[Path], Any]) -> Any:
    """Read an experiment's file, or return None if it is missing or malformed."""
    try:
        return names.read_output(named, path, read)
    except (ValueError, LookupError, csv.Error):
        return None


def _read_predicted(file: Path) -> Predicted:
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    return [row["actual"] for row in rows], [row["predicted"] for row in rows]


def _read_history(file: Path) -> History:
    with file.open(newline="", encoding="utf-8") as opened:
        rows = csv.DictReader(opened)
        return [{name: float(value) for name, value in row.items()} for row in rows]


def _side_by_side(mappings: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return a row for each name, with a value for each column."""
    columns = list(mappings)
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: [column.get(name) for column in columns] for name in names}


def _differing(rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the rows whose values differ; dotted keys come last."""
    names = sorted(rows, key=lambda name: ("." in name, name))
    return {name: rows[name] for name in names if len(set(rows[name])) > 1}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
