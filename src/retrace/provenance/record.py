"""Collect the outputs and metrics of a run, and those of its reproduction, for comparison."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from retrace.errors import RetraceError
from retrace.event_log import Event
from retrace.pipeline import hashing
from retrace.pipeline.definition import Pipeline
from retrace.provenance import logged_metrics
from retrace.provenance.diff import Facts, is_exact
from retrace.provenance.run_index import RunIndex
from retrace.store import backend, cached_stages, groups, run_tags
from retrace.store.names import SYSTEM

# Times differ in each run: fit_s, eval_runtime, samples_per_second, time_per_step, latency_p95.
TIMED = re.compile(
    r"(.*[^a-z0-9])?(time|runtime|duration|elapsed|latency|throughput|timestamp|s|ms|secs?|seconds?"
    r"|minutes|hours)([^a-z0-9](per[^a-z0-9].*|mean|avg|total|max|min|median|std|p\d+))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Record:
    """A run to verify, the run `parent` of its experiment, and the runs of its stages.

    For an experiment, `parent` is the run itself and all its `stages` are verified; for a stage's
    run, only that stage. `ran` are these stages and all before them, which must run again;
    `training` those that make the model.
    """

    run: backend.Run
    parent: backend.Run
    made_by: Mapping[str, backend.Run]
    stages: tuple[str, ...]
    ran: tuple[str, ...]
    training: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"run {self.run.info.run_id[:8]}"

    @property
    def is_wrapped(self) -> bool:
        """Return whether a stage was tracked from outside, by `retrace dvc` or `retrace run`."""
        return any(run_tags.value(run.data.tags, "wrapped") for run in self.made_by.values())

    @property
    def is_parent(self) -> bool:
        return self.run is self.parent

    def lost(self) -> dict[str, str]:
        """Return what could not be recorded with the verified runs, by stage, and why."""
        return {
            f"{what} ({stage})": why
            for stage in self.stages
            for what, why in run_tags.lost(self.made_by[stage]).items()
        }

    def own(self) -> list[backend.Run]:
        """Return the runs of stages that ran for this experiment, and so with its code.

        The run to verify comes first, then those that made the model.
        """
        parent = self.parent.info.run_id
        own = [
            run
            for run in self.made_by.values()
            if run.data.tags.get("mlflow.parentRunId") == parent
        ]
        trained = [self.made_by[stage] for stage in self.training if stage in self.made_by]
        return sorted(own, key=lambda run: (run is not self.run, run not in trained))


def find_record(run_id: str) -> Record:
    """Return the record of the run whose id begins with `run_id`.

    Raises RetraceError unless it is a finished run of this pipeline.
    """
    index = RunIndex()
    run = index.required(run_id)
    tags = run.data.tags
    if groups.SUMMARY in tags:
        advice = "verify one of its child runs (one per fold)"
        raise RetraceError(f"run {run_id} summarizes the folds of a cross-validation; {advice}")
    if "retrace.key" not in tags and "retrace.stage" not in tags:
        raise RetraceError(
            f"run {run_id} is not of this pipeline; `retrace leaderboard` lists those that are"
        )
    parent = index.experiment(run)
    if parent is None:
        above = tags.get("mlflow.parentRunId", "")
        lost = f"was removed from {index.address}; `retrace sync` adds it again if DVC still has it"
        reason = index.deleted(above) or f"run {above} {lost}"
        raise RetraceError(f"run {run_id}: its experiment's run is missing: {reason}")
    made_by = {each.data.tags["retrace.stage"]: each for each in index.stages(parent)}
    stages = tuple(stage for stage in index.pipeline.stages if stage in made_by)
    if parent is not run:
        stages = (tags["retrace.stage"],)
        made_by |= {tags["retrace.stage"]: run}
    if parent is run:
        _check_links(index, parent)
    if not stages:
        raise RetraceError(
            f"run {run_id}: MLflow has no runs of its stages; `retrace sync` may upload them"
        )
    for one in (run, *(made_by[stage] for stage in stages)):
        if one.info.status != "FINISHED":
            subject = f"run {one.info.run_id} ({one.info.run_name}): is {one.info.status}"
            raise RetraceError(f"{subject}; only runs with status FINISHED can be verified")
    ran = tuple(index.pipeline.ancestors(*stages))
    return Record(run, parent, made_by, stages, ran, index.pipeline.training)


def _check_links(index: RunIndex, parent: backend.Run) -> None:
    """Raise RetraceError if runs that an experiment is linked to no longer exist."""
    lost = [stage for stage in index.pipeline.stages if index.has_lost(parent, stage)]
    if lost:
        missing = f"the runs of {', '.join(lost)} are missing in MLflow"
        reason = "they were deleted, or removed by `mlflow gc`"
        advice = "`retrace sync` restores them, or adds them again if DVC still has them"
        raise RetraceError(f"run {parent.info.run_id}: {missing}: {reason}; {advice}")


def is_compared(metric: str, ignore: Sequence[str] = ()) -> bool:
    """Return whether a metric should be reproduced: no time, and no name or pattern in `ignore`."""
    is_varying = metric.startswith(SYSTEM) or TIMED.fullmatch(metric)
    return not (is_varying or _is_ignored(metric, ignore))


def timed_files(pipeline: Pipeline, tree: Path, ignore: Sequence[str]) -> list[str]:
    """Return the metrics files in `tree` with a metric that is not compared.

    Their bytes differ in each run; their other metrics are compared one by one.
    """
    files = {path: logged_metrics.of_file(tree / path) for path in pipeline.metrics_files}
    return [
        path
        for path, numbers in files.items()
        if not all(is_compared(name, ignore) for name in numbers)
    ]


def left_out(record: Record, ignore: Sequence[str]) -> list[str]:
    """Return the metrics that are not compared, without the system metrics."""
    verified = [record.made_by[stage] for stage in record.stages]
    names = {name for run in verified for name in (*run.data.metrics, *cached_stages.summary(run))}
    known = (name for name in names if not name.startswith(SYSTEM))
    return sorted(name for name in known if not is_compared(name, ignore))


def recorded_facts(
    client: backend.MlflowClient, record: Record, pipeline: Pipeline, ignore: Sequence[str] = ()
) -> Facts:
    """Return the MD5s and metrics that the run recorded, without metrics in `ignore`.

    The inputs that it read from stages that are not verified are included.
    """
    facts: dict[tuple[str, str], Any] = {}
    headlines: dict[str, str] = {}
    for stage in record.stages:
        run = record.made_by[stage]
        for path, md5 in cached_stages.hashes(run, "deps").items():
            maker = pipeline.maker(path)
            if maker and maker not in record.stages:
                facts[maker, path] = md5
        facts |= {(stage, path): md5 for path, md5 in cached_stages.hashes(run, "outs").items()}
        for name in run.data.metrics:
            history = sorted(
                client.get_metric_history(run.info.run_id, name), key=lambda point: point.timestamp
            )
            facts[stage, name] = {point.step: point.value for point in history}
        for name, value in cached_stages.summary(run).items():
            facts.setdefault((stage, name), {})["headline"] = value
            headlines[name] = stage
    if record.is_parent:
        for name, value in record.parent.data.metrics.items():
            facts.setdefault((headlines.get(name, "experiment"), name), {})["experiment"] = value
    return _compared(facts, ignore)


def reproduced_facts(
    record: Record,
    pipeline: Pipeline,
    logs: Mapping[str, list[Event]],
    tree: Path,
    ignore: Sequence[str] = (),
) -> Facts:
    """Return the same facts of the reproduction in `tree`; `logs` has its event logs by stage."""
    facts: dict[tuple[str, str], Any] = {}
    owners: dict[str, str] = {}  # of the experiment's metrics: the last stage with such a one
    for stage in record.stages:
        files = {out.path: stage for out in pipeline.stages[stage].outs}
        for path in pipeline.stages[stage].deps:
            maker = pipeline.maker(path)
            files |= {path: maker} if maker and maker not in record.stages else {}
        for path, maker in files.items():
            if (tree / path).exists():
                facts[maker, path] = hashing.md5(tree / path)
        for event in logs.get(stage, []):
            match event["kind"]:
                case "metrics":
                    points = (event.get("step"),)
                case "headline":
                    points = ("headline",)
                    owners |= dict.fromkeys(event["values"], stage)
                case _:
                    continue
            for name, value in event["values"].items():
                facts.setdefault((stage, name), {}).update(dict.fromkeys(points, value))
    for name, stage in owners.items() if record.is_parent else ():
        facts[stage, name]["experiment"] = facts[stage, name]["headline"]
    return _compared(facts, ignore)


def device_change(
    record: Record, logs: Mapping[str, list[Event]], exact: Sequence[str]
) -> tuple[str, str] | None:
    """Return the kinds of device then and now, of the first stage for which they differ.

    None if they are equal. Stages before the verified ones count too, because they ran again.
    Stages in `exact` give equal bytes on all devices and do not count.
    """
    for stage in record.ran:
        if is_exact(stage, exact) or stage not in logs or stage not in record.made_by:
            continue
        tags = record.made_by[stage].data.tags
        machine = run_tags.value(tags, "machine")
        then = dict(tags) | ({"retrace.machine": machine} if machine else {})
        now: dict[str, str] = {}
        for event in logs[stage]:
            now |= event["values"] if event["kind"] == "tags" else {}
            now |= {"retrace.machine": event["machine"]} if event["kind"] == "start" else {}
        kinds = [tag for tag in ("retrace.device", "retrace.machine") if tag in then and tag in now]
        if any(then[tag] != now[tag] for tag in kinds):
            return ", ".join(then[tag] for tag in kinds), ", ".join(now[tag] for tag in kinds)
    return None


def _compared(facts: dict[tuple[str, str], Any], ignore: Sequence[str]) -> Facts:
    """Return the facts without what is not compared."""
    return {
        (stage, what): fact
        for (stage, what), fact in facts.items()
        if not (
            _is_ignored(what, ignore) if isinstance(fact, str) else not is_compared(what, ignore)
        )
    }


def _is_ignored(name: str, ignore: Sequence[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in ignore)
