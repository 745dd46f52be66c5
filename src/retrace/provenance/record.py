"""Collect the outputs and metrics of a run, and those of its reproduction, for comparison."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrace.errors import RetraceError
from retrace.event_log import Event
from retrace.pipeline import hashing
from retrace.pipeline.definition import Pipeline
from retrace.provenance.diff import Facts
from retrace.provenance.run_index import RunIndex
from retrace.store import backend, cached_stages, groups, run_tags

# Times and system metrics differ in each run and are never compared.
TIMED = re.compile(r"train_s|stages_s|images_per_s|system/.*")


@dataclass(frozen=True)
class Record:
    """A run to verify, the run `parent` of its experiment, and the runs of its stages.

    For an experiment, `parent` is the run itself and all its `stages` are verified; for a stage's
    run, only that stage.
    """

    run: backend.Run
    parent: backend.Run
    made_by: Mapping[str, backend.Run]
    stages: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"run {self.run.info.run_id[:8]}"

    @property
    def is_parent(self) -> bool:
        return self.run is self.parent

    def own(self) -> list[backend.Run]:
        """Return the runs of stages that ran for this experiment, and so with its code.

        The run to verify comes first, then that of train.
        """
        parent = self.parent.info.run_id
        runs = [
            run
            for run in self.made_by.values()
            if run.data.tags.get("mlflow.parentRunId") == parent
        ]
        return sorted(
            runs, key=lambda run: (run is not self.run, run is not self.made_by.get("train"))
        )


def find_record(run_id: str) -> Record:
    """Return the record of the run whose id begins with `run_id`.

    Raises RetraceError unless it is a finished run of this pipeline.
    """
    index = RunIndex()
    run = index.run(run_id)
    if run is None:
        advice = "give at least 6 digits of its id, which `mlflow ui` shows"
        raise RetraceError(f"run {run_id!r} was not found in {index.address}; {advice}")
    tags = run.data.tags
    if groups.SUMMARY in tags:
        advice = "verify one of its child runs (one per fold)"
        raise RetraceError(f"run {run_id} summarizes the folds of a cross-validation; {advice}")
    if "retrace.key" not in tags and "retrace.stage" not in tags:
        raise RetraceError(
            f"run {run_id} was not created by this pipeline; `mlflow ui` shows the runs that were"
        )
    parent = index.experiment(run)
    if parent is None:
        lost = "and with it the key that identifies code and parameters"
        raise RetraceError(
            f"run {run_id}: its experiment's run was deleted from {index.address}, {lost}"
        )
    made_by = {each.data.tags["retrace.stage"]: each for each in index.stages(parent)}
    stages = tuple(stage for stage in index.pipeline.stages if stage in made_by)
    if parent is not run:
        stages = (tags["retrace.stage"],)
        made_by |= {tags["retrace.stage"]: run}
    if not stages:
        raise RetraceError(
            f"run {run_id}: MLflow has no runs of its stages; `retrace sync` may upload them"
        )
    for one in (run, *(made_by[stage] for stage in stages)):
        if one.info.status != "FINISHED":
            subject = f"run {one.info.run_id} ({one.info.run_name}): is {one.info.status}"
            raise RetraceError(f"{subject}; only runs with status FINISHED can be verified")
    return Record(run, parent, made_by, stages)


def recorded_facts(client: backend.MlflowClient, record: Record, pipeline: Pipeline) -> Facts:
    """Return the MD5s and metrics that the run recorded.

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
        for name in filter(_is_compared, run.data.metrics):
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
    return facts


def reproduced_facts(
    record: Record, pipeline: Pipeline, logs: Mapping[str, list[Event]], tree: Path
) -> Facts:
    """Return the same facts of the reproduction in `tree`; `logs` has its event logs by stage."""
    facts: dict[tuple[str, str], Any] = {}
    summaries = ("headline", "experiment") if record.is_parent else ("headline",)
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
                    points = summaries
                case _:
                    continue
            for name in filter(_is_compared, event["values"]):
                facts.setdefault((stage, name), {}).update(
                    dict.fromkeys(points, event["values"][name])
                )
    return facts


def device_change(
    record: Record, logs: Mapping[str, list[Event]], exact: tuple[str, ...]
) -> tuple[str, str] | None:
    """Return the kinds of device then and now, of the first stage for which they differ.

    None if they are equal. The stage train counts even if it is not verified. Stages in `exact`
    give equal bytes on all devices and do not count.
    """
    for stage in dict.fromkeys((*record.stages, "train")):
        if stage in exact or stage not in logs or stage not in record.made_by:
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


def _is_compared(metric: str) -> bool:
    return not TIMED.fullmatch(metric)
