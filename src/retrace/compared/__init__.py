"""Experiments side by side: what they did not have in common, what they reached, and whether the same test samples
show a difference.
"""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrace import paired, paths
from retrace.paired import SIGNIFICANT, Paired
from retrace.provenance.named import NamedExperiment, Resolver

READ = ("src/", "stages/", "data/")  # what decides a result, beside the parameters
PICTURES = "figures."  # parameters that an experiment lacks where nobody has drawn its pictures yet

History = Sequence[Mapping[str, float]]  # a row an epoch
Told = tuple[list[str], list[str]]  # of each test sample, in the part's order: its class, and the predicted one


@dataclass(frozen=True)
class Against:
    """One experiment against the first on the test samples; or `why` that says nothing. `p` is corrected for as many
    tests as there are.
    """

    name: str
    first: str
    pairs: Paired | None = None
    p: float = 1.0
    why: str = ""

    @property
    def verdict(self) -> str:
        if self.pairs is None:
            return "not tested"
        if self.p >= SIGNIFICANT:
            return f"no difference that these {self.pairs.n_samples:,} samples can show"
        return "better" if self.pairs.difference > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """Of `experiments`, in their order: the parameters, the metrics and the MD5s of code and data, with None where one
    has none. Parameters and files are only those that differ; a file that one did not need does not differ. `tests`
    lacks the first experiment.
    """

    experiments: Sequence[NamedExperiment]
    params: Mapping[str, Sequence[str | None]]
    files: Mapping[str, Sequence[str | None]]
    metrics: Mapping[str, Sequence[float | None]]
    tests: Sequence[Against]
    histories: Sequence[History]
    notes: Sequence[str]


def of(names: Resolver, experiments: Sequence[NamedExperiment]) -> Comparison:
    """The experiments, which `names` has found, side by side."""
    told = [_read(names, each, paths.CONFUSION, _told) for each in experiments]
    histories = [_read(names, each, paths.HISTORY, _history) for each in experiments]
    apart = _apart(_side_by_side(each.params for each in experiments))
    read = _side_by_side({p: md5 for p, md5 in each.deps.items() if p.startswith(READ)} for each in experiments)
    return Comparison(
        experiments,
        params={key: row for key, row in apart.items() if not (key.startswith(PICTURES) and None in row)},
        files={path: md5s for path, md5s in read.items() if len({*md5s} - {None}) > 1},
        metrics=_side_by_side(each.metrics for each in experiments),
        tests=_tests(experiments, told),
        histories=[history or () for history in histories],
        notes=[f"{each.name}: {note}" for each in experiments for note in each.notes]
        + ([f"without what only MLflow knows: {names.away}"] if names.away else []),
    )


def difference(values: Sequence[float | None], at: int) -> float | None:
    """By how much a value is above the first; None where one of them is missing."""
    first, value = values[0], values[at]
    return None if first is None or value is None else value - first


def sentence(test: Against, n_tests: int) -> str:
    """What a test in pairs came to."""
    pair, about = test.pairs, f"{test.name} against {test.first}"
    if pair is None:
        return f"{about}: no test of the difference, for {test.why}"
    low, high = (f"{100 * end:+.2f}" for end in pair.interval)
    holm = f", {test.p:.2g} as one of {n_tests} tests" if n_tests > 1 else ""
    return (
        f"{about}: {test.verdict}\n"
        f"  of the same {pair.n_samples:,} test samples {pair.only_second:,} are told right by {test.name} alone, "
        f"{pair.only_first:,} by {test.first} alone\n"
        f"  accuracy {100 * pair.difference:+.2f} points (95 %: {low}..{high}), p = {pair.p:.2g}{holm}"
    )


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def change(values: Sequence[float | None], at: int) -> str:
    """By how much a value is above the first, with a sign."""
    apart = difference(values, at)
    return "-" if apart is None else f"{apart:+.3g}" if apart else "0"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """All of it, for scripts; a number that is none, which JSON does not have, is null."""
    return {
        "experiments": [
            {
                "name": each.name,
                "is": each.said,
                "params": dict(each.params),
                "metrics": {name: _finite(value) for name, value in each.metrics.items()},
                "history": [{name: _finite(value) for name, value in row.items()} for row in history],
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


def _test_as_json(test: Against) -> dict[str, Any]:
    said: dict[str, Any] = {"name": test.name, "against": test.first, "verdict": test.verdict}
    if test.pairs is None:
        return said | {"why": test.why}
    return said | vars(test.pairs) | {"p_corrected": test.p}


def _tests(experiments: Sequence[NamedExperiment], told: Sequence[Told | None]) -> list[Against]:
    """Every other experiment against the first, after Holm."""
    first, found = experiments[0], dict[int, Paired]()
    why = {at: _untestable(experiments[at], first, told[at], told[0]) for at in range(1, len(experiments))}
    for at, said in why.items():
        ours, theirs = told[0], told[at]
        if not said and ours and theirs:
            found[at] = paired.compared(_right(ours), _right(theirs))
    ps = dict(zip(found, paired.corrected([pairs.p for pairs in found.values()]), strict=True))
    return [Against(experiments[at].name, first.name, found.get(at), ps.get(at, 1.0), said) for at, said in why.items()]


def _untestable(one: NamedExperiment, first: NamedExperiment, told: Told | None, told_first: Told | None) -> str:
    """Why two experiments can't be tested in pairs; nothing where they can."""
    test = str(paths.TEST)
    for each in (first, one):
        if test not in each.deps:
            return f"{each.name} has not been tested"
    if one.deps[test] != first.deps[test]:
        return f"they were tested on other samples: {test} is not the same file"
    for each, its in ((first, told_first), (one, told)):
        if its is None:
            return f"what {each.name} predicted is neither in DVC's cache nor in MLflow; run it again"
    if told and told_first and told[0] != told_first[0]:
        return f"their predictions are not of the same samples: {paths.CONFUSION} has other classes in it"
    return ""


def _right(told: Told) -> np.ndarray:
    return np.array([actual == predicted for actual, predicted in zip(*told, strict=True)], dtype=bool)


def _read(names: Resolver, named: NamedExperiment, path: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` makes of the file; None where it is nowhere, or not what we write."""
    try:
        return names.read_output(named, path, read)
    except (ValueError, LookupError, csv.Error):
        return None


def _told(file: Path) -> Told:
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    return [row["actual"] for row in rows], [row["predicted"] for row in rows]


def _history(file: Path) -> History:
    with file.open(newline="", encoding="utf-8") as opened:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(opened)]


def _side_by_side(each: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """By name, what each of them has."""
    columns = list(each)
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: [column.get(name) for column in columns] for name in names}


def _apart(rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The rows that are not the same everywhere; settings in tables last."""
    return {name: rows[name] for name in sorted(rows, key=lambda name: ("." in name, name)) if len(set(rows[name])) > 1}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
