"""What MLflow knows of who made what: runs by their ids, by the bytes that they made, by their experiment."""

import re

from retrace import params
from retrace.errors import RetraceError
from retrace.redaction import redacted
from retrace.tracking import store

ID = re.compile(r"[0-9a-f]{6,32}")
MADE = "retrace.made."  # and the MD5: a run's tag with the path of what it made


class Origins:
    """The runs of a store. Raises RetraceError where the store is away."""

    def __init__(self) -> None:
        self.place = redacted(store.address())
        self.client = store.client()
        self.experiments = store.experiments(self.client)
        self._made: dict[str, list[store.Run]] = {}

    def run(self, start: str) -> store.Run | None:
        """The run whose id starts so, if there is one. Raises RetraceError where there are several."""
        if not ID.fullmatch(start):
            return None
        found = list(store.every(self.client, self.experiments, f"attributes.run_id LIKE '{start}%'"))
        if len(found) > 1:
            ids = ", ".join(run.info.run_id for run in found)
            raise RetraceError(f"{start}: so start the ids of {len(found)} runs, {ids}; give more digits")
        return found[0] if found else None

    def parent(self, run: store.Run) -> store.Run | None:
        """The experiment's run of a stage's run."""
        return self.run(run.data.tags.get("mlflow.parentRunId", ""))

    def experiment(self, run: store.Run) -> store.Run | None:
        """The experiment's run: itself, though it may be below that of folds or a sweep, or that of a stage's run."""
        return run if "retrace.key" in run.data.tags else self.parent(run)

    def makers(self, md5: str) -> list[store.Run]:
        """The runs that made these bytes, finished ones first, then by age."""
        if md5 not in self._made:
            found = store.every(self.client, self.experiments, f"tags.`{MADE}{md5}` LIKE '%'")
            self._made[md5] = sorted(found, key=lambda run: (run.info.status != "FINISHED", run.info.start_time))
        return self._made[md5]

    def maker(self, path: str, md5: str, parent: str | None = None) -> store.Run | None:
        """The oldest run that made these bytes; rather one of the experiment `parent`, rather as `path`."""

        def less(run: store.Run) -> tuple[bool, bool]:
            tags = run.data.tags
            return parent not in (None, tags.get("mlflow.parentRunId")), tags[MADE + md5] != path

        return min(self.makers(md5), key=less, default=None)

    def stages(self, run: store.Run) -> list[store.Run]:
        """The runs that made what an experiment has, its own or linked ones, in the pipeline's order; of a stage's run,
        itself.
        """
        tags = run.data.tags
        if "retrace.stage" in tags:
            return [run]
        found = []
        for stage in params.STAGES:
            ids = [tags[tag] for tag in (f"retrace.run.{stage}", f"retrace.cached.{stage}") if tag in tags]
            runs = [known for known in map(self.run, ids) if known]
            found += sorted(runs, key=lambda known: known.info.status != "FINISHED")[:1]
        return found
