"""Find runs in MLflow: by id, by the MD5 of an output, by experiment."""

import re
from functools import cached_property
from pathlib import Path

from retrace.errors import RetraceError
from retrace.pipeline import loading
from retrace.pipeline.definition import Pipeline
from retrace.store import backend, lifecycle, run_tags
from retrace.system.redaction import redacted

ID = re.compile(r"[0-9a-f]{6,32}")


class RunIndex:
    """The runs of the MLflow store. Raises RetraceError if it does not answer."""

    def __init__(self) -> None:
        self.address = redacted(backend.address())
        self.client = backend.client()
        self.experiments = backend.experiments(self.client)
        self._made: dict[str, list[backend.Run]] = {}

    @cached_property
    def pipeline(self) -> Pipeline:
        """The pipeline of the working tree."""
        return loading.load(Path())

    def run(self, start: str) -> backend.Run | None:
        """Return the run whose id begins with `start`; None if there is none.

        Raises RetraceError if there are several.
        """
        if not ID.fullmatch(start):
            return None
        runs = list(
            backend.search_runs(self.client, self.experiments, f"attributes.run_id LIKE '{start}%'")
        )
        if len(runs) > 1:
            ids = ", ".join(run.info.run_id for run in runs)
            raise RetraceError(
                f"{start}: {len(runs)} run ids begin with these digits: {ids}; give more digits"
            )
        return runs[0] if runs else None

    def required(self, start: str) -> backend.Run:
        """Return the run whose id begins with `start`. Raises RetraceError unless there is one."""
        run = self.run(start)
        if run is None:
            advice = "give at least 6 digits of its id, which `retrace ui` shows"
            unknown = f"run {start!r} was not found in {self.address}; {advice}"
            raise RetraceError(self.deleted(start) or unknown)
        return run

    def deleted(self, start: str) -> str:
        """Return what restores the deleted run whose id begins with `start`; empty without one."""
        if not ID.fullmatch(start):
            return ""
        return lifecycle.restoration(self.client, start)

    def parent(self, run: backend.Run) -> backend.Run | None:
        """Return the parent of a stage's run, which is the run of its experiment.

        If it no longer exists, return an experiment that is linked to the stage's run.
        """
        tags = run.data.tags
        parent = self.run(tags.get("mlflow.parentRunId", ""))
        stage = tags.get("retrace.stage")
        if parent or stage is None:
            return parent
        for tag in (run_tags.hidden(f"run.{stage}"), f"{run_tags.CACHED}{stage}"):
            if linked := backend.first(self.client, self.experiments, {tag: run.info.run_id}):
                return linked
        return None

    def experiment(self, run: backend.Run) -> backend.Run | None:
        """Return a run's experiment: the run itself, or the parent of a stage's run.

        An experiment's run may have a parent too, which summarizes folds or a sweep.
        """
        return run if "retrace.key" in run.data.tags else self.parent(run)

    def makers(self, md5: str) -> list[backend.Run]:
        """Return the runs that made these bytes, finished ones first, then the oldest."""
        if md5 not in self._made:
            runs = run_tags.makers(self.client, self.experiments, [md5])
            self._made[md5] = sorted(
                runs, key=lambda run: (run.info.status != "FINISHED", run.info.start_time)
            )
        return self._made[md5]

    def maker(self, path: str, md5: str, parent: str | None = None) -> backend.Run | None:
        """Return the oldest run that made these bytes.

        Runs of the experiment `parent` are preferred, then those that wrote them to `path`.
        """

        def distance(run: backend.Run) -> tuple[bool, bool]:
            tags = run.data.tags
            is_elsewhere = parent not in (None, tags.get("mlflow.parentRunId"))
            return is_elsewhere, run_tags.value(tags, f"{run_tags.MADE}{md5}") != path

        return min(self.makers(md5), key=distance, default=None)

    def has_lost(self, run: backend.Run, stage: str) -> bool:
        """Return whether an experiment is linked to a run of a stage that no longer exists."""
        linked = run_tags.linked_run(run.data.tags, stage)
        return linked is not None and self.run(linked) is None

    def stages(self, run: backend.Run) -> list[backend.Run]:
        """Return an experiment's stages, its own or cached ones, in the pipeline's order.

        For a stage's run, return only that run.
        """
        tags = run.data.tags
        if "retrace.stage" in tags:
            return [run]
        stages = []
        for stage in self.pipeline.stages:
            cached = run_tags.cached_run(tags, stage)
            ids = filter(None, (run_tags.stage_run(tags, stage), cached))
            runs = [known for known in map(self.run, ids) if known]
            stages += sorted(runs, key=lambda known: known.info.status != "FINISHED")[:1]
        return stages
