"""A running trial: DVC's process, the stages below it, and their event logs."""

import re
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from retrace import checkpoint, event_log
from retrace.event_log import Event
from retrace.sweeps import repositories, results
from retrace.sweeps.objective import Objective, own_name
from retrace.sweeps.results import Result
from retrace.system import processes
from retrace.system.redaction import redacted
from retrace.tracking import dvc_process


class TrialProcess:
    """DVC running the experiment `name` in `tree`, by the words of a command.

    Each stage is tracked as below `retrace dvc`. The output is in `log`.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        env: dict[str, str],
        tree: Path,
        log: Path,
        objective: Objective,
    ) -> None:
        self.name = name
        self.tree = tree
        self.log = log
        self.objective = objective
        self.began = time.monotonic()
        self.since = time.strftime("%Y%m%dT%H%M%S")
        self.step = 0
        self.is_measured = False  # the stage with the curve has its results
        self._curve: str | None = None  # the event log that has the metric by step
        self._positions: dict[str, int] = {}
        self._points = defaultdict[str, list[tuple[int, float]]](list)  # not reported yet
        self._starts: dict[str, Event] = {}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                words,
                cwd=tree,
                env=dvc_process.environment() | env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C then reaches only this process, which ends all children.
                start_new_session=True,
                preexec_fn=processes.die_with_parent,  # noqa: PLW1509 - it takes no lock
            )

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def steps(self) -> Iterator[tuple[int, float]]:
        """Yield the steps that a stage has logged since the last call, with the metric.

        The first stage counts that logs the metric at a step after 0. At step 0, many have a value
        that is no curve, such as that of a metrics file.
        """
        for path, start in self._event_logs():
            if self._curve in (None, path.name):
                self._read(path, start)
                points = self._points.pop(path.name, [])
                if points and points[-1][0] > 0:
                    self._curve = path.name
                    self.step = points[-1][0]
                    yield from points
                else:
                    self._points[path.name] = points

    def _read(self, path: Path, start: Event) -> None:
        """Read the new events of a stage; of steps that it logs again, the first value counts."""
        name = own_name(self.objective.metric, start["stage"])
        events: list[Event] = []
        with suppress(FileNotFoundError):  # being moved just now; the next call finds it
            position = self._positions.get(path.name, 0)
            events, self._positions[path.name] = event_log.read_from(path, position)
        points = self._points[path.name]
        for event in events:
            is_curve = self._curve == path.name or bool(points and points[-1][0] > 0)
            self.is_measured |= is_curve and event["kind"] in ("headline", "end")
            if event["kind"] == "metrics" and name in event["values"]:
                last = points[-1][0] if points else self.step if is_curve else -1
                if event["step"] > last:
                    points.append((event["step"], event["values"][name]))

    def prune(self, why: str) -> None:
        """End the trial, record why, and delete the checkpoints that it could resume from."""
        for path, _ in self._event_logs():
            if path.name == self._curve:
                tags = {"retrace.pruned": why}
                with suppress(FileNotFoundError):
                    event = {"kind": "tags", "time": event_log.now(), "values": tags}
                    event_log.append(path, event)
        self.stop()
        runs = {start["id"] for _, start in self._event_logs()}
        for folder in checkpoint.folders():
            with suppress(OSError, IndexError, KeyError, ValueError):
                if checkpoint.facts(checkpoint.in_folder(folder)[-1])["run"] in runs:
                    checkpoint.remove(folder)

    def stop(self) -> None:
        """End the trial so that it can resume from its last checkpoint."""
        dvc_process.stop(self.process)

    def result(self) -> Result | None:
        """Fetch the experiment and return its result; None if DVC ended without one.

        Raises DataError if the experiment does not have the metric.
        """
        if self.process.returncode != 0:
            return None
        commit = repositories.fetch(self.tree, self.name)
        return results.read_result(commit, self.objective) if commit else None

    def reason(self) -> str:
        """Return why the trial failed, in one line."""
        for path, _ in reversed(list(self._event_logs())):
            with suppress(FileNotFoundError):
                end = event_log.end_of(event_log.read(path))
                if end and end["status"] != "FINISHED":
                    return end.get("error", end["status"])
        printed = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [
            line
            for line in printed.splitlines()
            if line.strip() and not re.match(r"WARNING|[>\s]", line)
        ]
        before = [line for line in lines if not line.startswith("ERROR")]
        return redacted((before or lines or [f"DVC exited with {self.process.returncode}"])[-1])[
            :300
        ]

    def _event_logs(self) -> Iterator[tuple[Path, Event]]:
        """Yield the event logs of its stages, oldest first, each with its first event."""
        folder = event_log.folder()
        logs = {
            path.name: path for path in [*folder.glob("*.jsonl"), *folder.glob("uploaded/*.jsonl")]
        }
        for name in sorted(name for name in logs if name >= self.since):
            if name not in self._starts:
                with suppress(FileNotFoundError):
                    begun = event_log.read(logs[name])[:1]
                    self._starts |= {name: begun[0]} if begun else {}
            start = self._starts.get(name, {})
            if start.get("experiment", {}).get("dvc.exp_name") == self.name:
                yield logs[name], start
