"""Compare experiments: parameters and files that differ, metrics, and significance tests."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrace import settings
from retrace.compare import curves, predictions, significance
from retrace.compare.curves import History
from retrace.compare.predictions import Predicted
from retrace.compare.significance import SIGNIFICANT, Paired, PairedErrors
from retrace.pipeline import definition, evaluation
from retrace.pipeline.definition import Pipeline
from retrace.pipeline.workspace import Workspace
from retrace.provenance.resolve import NamedExperiment, Resolver
from retrace.settings import PredictionsTable
from retrace.system import files


@dataclass(frozen=True)
class PairedTest:
    """One experiment compared with the first on the same samples, or `why` this is impossible.

    `p` is corrected for the number of tests.
    """

    name: str
    first: str
    pairs: Paired | PairedErrors | None = None
    p: float = 1.0
    why: str = ""

    @property
    def verdict(self) -> str:
        """The result in a few words."""
        if self.pairs is None:
            return "not tested"
        if self.p >= SIGNIFICANT:
            return f"no significant difference on these {self.pairs.n_samples:,} samples"
        return "better" if self.pairs.is_second_better else "worse"


@dataclass(frozen=True)
class Comparison:
    """Experiments side by side: each value is a row, with None where an experiment has none.

    `params`, and `files` with the MD5s of code and data that no stage makes, have only rows that
    differ. A file that only some experiments use does not count. `tests` are of all experiments but
    the first.
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
    workspace = Workspace(Path())
    pipeline = workspace.pipeline
    is_later = evaluation.is_later(pipeline, pipeline.measuring)
    params = _differing(_side_by_side(each.params for each in experiments))
    inputs = _side_by_side(_inputs(each, pipeline) for each in experiments)
    notes = [f"{each.name}: {note}" for each in experiments for note in each.notes]
    tests = _tests(names, workspace, experiments)
    histories = curves.histories(names, pipeline, experiments)
    if names.unavailable:
        notes.append(f"data that only MLflow has is missing: {names.unavailable}")
    return Comparison(
        experiments,
        # An experiment lacks the parameters of stages that did not run for it.
        params={key: row for key, row in params.items() if not (None in row and is_later(key))},
        files={path: md5s for path, md5s in inputs.items() if len({*md5s} - {None}) > 1},
        metrics=_side_by_side(each.metrics for each in experiments),
        tests=tests,
        histories=histories,
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
    is_percent = isinstance(pair, Paired)
    numbers = (*pair.interval, pair.difference)
    shown = [f"{100 * number:+.2f}" if is_percent else f"{number:+.3g}" for number in numbers]
    low, high, difference = shown
    holm = f", {test.p:.2g} corrected for {n_tests} tests" if n_tests > 1 else ""
    same = f"of the same {pair.n_samples:,} samples"
    if isinstance(pair, Paired):
        of_both = f"{same}, only {test.name} classifies {pair.only_second:,} correctly, "
        of_both += f"only {test.first} {pair.only_first:,}"
        unit = f"accuracy {difference} points"
    else:
        of_both = f"{same}, the mean absolute error is {pair.mean_second:.4g} with {test.name}, "
        of_both += f"{pair.mean_first:.4g} with {test.first}"
        unit = f"mean absolute error {difference}"
    return (
        f"{about}: {test.verdict}\n  {of_both}\n"
        f"  {unit} (95 % CI: {low}..{high}), p = {pair.p:.2g}{holm}"
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
    values = vars(test.pairs) | {"interval": [_finite(end) for end in test.pairs.interval]}
    return document | {"test": test.pairs.test} | values | {"p_corrected": test.p}


def _inputs(named: NamedExperiment, pipeline: Pipeline) -> dict[str, str]:
    """Return the code and data that no stage makes, as MD5s by path."""

    def is_made(path: str) -> bool:
        own = any(prefix in named.outs for prefix in definition.prefixes(path))
        return own or pipeline.maker(path) is not None

    return {path: md5 for path, md5 in named.deps.items() if not is_made(path)}


def _tests(
    names: Resolver, workspace: Workspace, experiments: Sequence[NamedExperiment]
) -> list[PairedTest]:
    """Test every other experiment against the first, with Holm's correction."""
    first, *others = experiments
    table = predictions.declared(workspace.pipeline, settings.load(files.root()))
    if table is None:
        return [PairedTest(each.name, first.name, why=predictions.UNDECLARED) for each in others]
    maker = workspace.pipeline.maker(table.path)
    data = evaluation.data_of(workspace, *([maker] if maker else []))
    predicted = [predictions.read(names, each, table) for each in experiments]
    reasons = {}
    pairs = dict[int, Paired | PairedErrors]()
    for at in range(1, len(experiments)):
        both = (predicted[0], predicted[at])
        reasons[at] = _untestable((first, experiments[at]), both, data, table)
        ours, theirs = both
        if not reasons[at] and isinstance(ours, Predicted) and isinstance(theirs, Predicted):
            pairs[at] = predictions.test(ours, theirs)
    ps = dict(zip(pairs, significance.corrected([pair.p for pair in pairs.values()]), strict=True))
    return [
        PairedTest(experiments[at].name, first.name, pairs.get(at), ps.get(at, 1.0), why)
        for at, why in reasons.items()
    ]


def _untestable(
    experiments: tuple[NamedExperiment, NamedExperiment],
    predicted: tuple[Predicted | str, Predicted | str],
    data: Sequence[str],
    table: PredictionsTable,
) -> str:
    """Return why two experiments cannot be tested in pairs, or an empty string.

    `data` are the paths of what both should have been evaluated on.
    """
    first, second = experiments
    for each in experiments:
        if any(path not in each.deps for path in data):
            return f"{each.name} was not evaluated"
    if differing := [path for path in data if first.deps[path] != second.deps[path]]:
        return f"they were evaluated on different data: {', '.join(differing)} differs"
    ours, theirs = predicted
    if isinstance(ours, str):
        return ours
    return theirs if isinstance(theirs, str) else predictions.mismatch(ours, theirs, table)


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
