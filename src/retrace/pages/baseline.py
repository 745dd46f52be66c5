"""What a result is compared with: the parameters and metrics of the last commit that has others.

That is the last commit, where the work tree has other results, and an earlier one, where they are committed. It is
called by the commit that brought them, so that neither committing these results nor anything else later moves it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retrace import lineage, params, params_file, paths
from retrace.errors import ParamsError
from retrace.redaction import redacted_all

COMMITS = 20  # with other files, but the same parameters and metrics, that are looked behind


@dataclass(frozen=True)
class Baseline:
    """`params` are the chosen ones; None where that commit's do not fit the code of today."""

    commit: str
    date: str
    subject: str
    params: Mapping[str, Any] | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Change:
    """Of a parameter or a metric; None is where there was, or is, none."""

    name: str
    then: Any
    now: Any


def found(chosen: Mapping[str, Any], metrics: Mapping[str, float]) -> Baseline | None:
    """The newest in the history of the commit here that has other chosen parameters, without secrets, or other metrics
    than these. None where there is none, as outside git.
    """
    rev = "HEAD"
    for _ in range(COMMITS):
        commit = lineage.changed(rev, paths.PARAMS, paths.METRICS)
        if commit is None:
            return None
        then = _metrics(commit)
        if then is not None and ((before := _chosen(commit)) != chosen or then != metrics):
            return Baseline(commit, *lineage.said_by(commit), before, then)
        rev = f"{commit}^"
    return None


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What differs, in the order of `now`."""
    names = [name for name in {**now, **then} if name not in then or name not in now or then[name] != now[name]]
    return [Change(name, then.get(name), now.get(name)) for name in names]


def _metrics(commit: str) -> dict[str, float] | None:
    try:
        values = json.loads(lineage.content(commit, paths.METRICS) or b"")
    except ValueError:
        return None
    is_one = isinstance(values, dict) and all(isinstance(value, float | int) for value in values.values())
    return values if is_one and values else None


def _chosen(commit: str) -> dict[str, Any] | None:
    try:
        return redacted_all(params.chosen(params_file.parse(lineage.content(commit, paths.PARAMS) or b"")))
    except (ParamsError, LookupError, TypeError):
        return None
