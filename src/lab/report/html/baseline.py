"""The baseline of a result: the last commit with other parameters or metrics.

It is named by the commit that introduced them. So it stays the same when these results are
committed, and when anything else is committed later.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab import params, paths
from retrace.errors import ParamsError
from retrace.pipeline import git, params_yaml
from retrace.pipeline.metrics import parse_metrics
from retrace.system.redaction import redacted_all

COMMITS = 20  # to search, at most


@dataclass(frozen=True)
class Baseline:
    """A commit. `params` are the chosen ones, or None if the current code does not accept them."""

    commit: str
    date: str
    subject: str
    params: Mapping[str, Any] | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Change:
    """A parameter or a metric that differs; None if it is absent."""

    name: str
    then: Any
    now: Any


def find(chosen: Mapping[str, Any], metrics: Mapping[str, float]) -> Baseline | None:
    """Find the newest commit in this one's history with other parameters or other metrics.

    Secrets are left out of the comparison. None if there is no such commit, or outside git.
    """
    rev = "HEAD"
    for _ in range(COMMITS):
        commit = git.last_change(rev, paths.PARAMS, paths.METRICS)
        if commit is None:
            return None
        then = _metrics(commit)
        if then is not None and ((before := _chosen(commit)) != chosen or then != metrics):
            return Baseline(commit, *git.commit_message(commit), before, then)
        rev = f"{commit}^"
    return None


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Return what differs, in the order of `now`."""
    absent = object()
    names = {**now, **then}
    names = [name for name in names if then.get(name, absent) != now.get(name, absent)]
    return [Change(name, then.get(name), now.get(name)) for name in names]


def _metrics(commit: str) -> dict[str, float] | None:
    try:
        return parse_metrics(git.read_file(commit, paths.METRICS) or b"") or None
    except ValueError:
        return None


def _chosen(commit: str) -> dict[str, Any] | None:
    try:
        return redacted_all(
            params.chosen(params_yaml.parse(git.read_file(commit, paths.PARAMS) or b""))
        )
    except (ParamsError, LookupError, TypeError):
        return None
