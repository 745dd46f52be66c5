"""A running trial: DVC's process, the stages below it, and training's event log."""

import ctypes
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from retrace import checkpoint, event_log
from retrace.event_log import Event
from retrace.pipeline import dvc_cli, overrides
from retrace.pipeline.overrides import Flat
from retrace.sweeps import repositories
from retrace.system import processes
from retrace.system.redaction import redacted

ENDS_S = 60.0  # for a trial to end on SIGTERM, with its stage saved and uploaded
SAVES_S = 5.0  # for DVC to end after its stage
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class TrialProcess:
    """DVC running the experiment `name`, with `changes` to params.yaml, in `tree`.

    Its output is in `log`.
    """

    def __init__(self, name: str, sweep: str, changes: Flat, tree: Path, store: str) -> None:
        self.name = name
        self.tree = tree
        self.log = repositories.sweep_folder(sweep) / f"{name}.log"
        self.began = time.monotonic()
        self.since = time.strftime("%Y%m%dT%H%M%S")
        self.epoch = 0
        self.is_trained = False
        self._position = 0
        self._starts: dict[str, Event] = {}
        flags = [
            word
            for key, value in changes.items()
            for word in ("-S", f"{key}={overrides.word(key, value)}")
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                dvc_cli.command("exp", "run", "--temp", "--name", name, *flags),
                cwd=tree,
                env=dvc_cli.environment() | {"RETRACE_SWEEP": sweep, "MLFLOW_TRACKING_URI": store},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C then reaches only this process, which ends all children.
                start_new_session=True,
                preexec_fn=_die_with_us,  # noqa: PLW1509 - no other thread has a lock that it needs
            )

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def epochs(self, metric: str) -> Iterator[tuple[int, float]]:
        """Yield the epochs that training has logged since the last call, with the metric."""
        path = next((path for path, start in self._event_logs() if start["stage"] == "train"), None)
        if path is None:
            return
        events: list[Event] = []
        with suppress(FileNotFoundError):  # being moved just now; the next call finds it
            events, self._position = event_log.read_from(path, self._position)
        for event in events:
            self.is_trained |= event["kind"] in ("headline", "end")
            if event["kind"] == "metrics" and metric in event["values"]:
                self.epoch = event["step"]
                yield event["step"], event["values"][metric]

    def prune(self, why: str) -> None:
        """End the trial, record why, and delete the checkpoints that it could resume from."""
        for path, start in self._event_logs():
            if start["stage"] == "train":
                with suppress(FileNotFoundError):
                    event_log.append(
                        path,
                        {
                            "kind": "tags",
                            "time": event_log.now(),
                            "values": {"retrace.pruned": why},
                        },
                    )
        self.stop()
        runs = {start["id"] for _, start in self._event_logs()}
        for folder in checkpoint.folders():
            with suppress(OSError, IndexError, KeyError, ValueError):
                if checkpoint.facts(checkpoint.in_folder(folder)[-1])["run"] in runs:
                    checkpoint.remove(folder)

    def stop(self) -> None:
        """End the trial so that it can resume from its last checkpoint."""
        for _, start in self._event_logs():
            if processes.alive(start["process"]):
                with suppress(ProcessLookupError):
                    os.kill(start["process"]["pid"], signal.SIGTERM)
                with suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
                    psutil.Process(start["process"]["pid"]).wait(ENDS_S)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(SAVES_S if self._starts else 0)
        self.process.kill()  # its stage, if it has one, ends by itself then
        self.process.wait()

    def commit(self) -> str | None:
        """Fetch the experiment and return its commit; None if DVC ended without one."""
        return repositories.fetch(self.tree, self.name) if self.process.returncode == 0 else None

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


def _die_with_us() -> None:
    """Make this child, DVC, end with its parent; its stage then ends too."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
