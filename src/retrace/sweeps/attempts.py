"""A trial at work: DVC's process, the stages below it, and what training tells in its journal."""

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

from retrace import checkpoint, dvc_cli, journal, overrides, processes, tracking
from retrace.journal import Event
from retrace.overrides import Flat
from retrace.redaction import redacted
from retrace.sweeps import trees

ENDS_S = 60.0  # in which a trial is over that was told to end, its stage saved and told to MLflow
SAVES_S = 5.0  # in which DVC ends by itself where its stage has
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class Attempt:
    """DVC at work on the experiment `name`, with `changes` to params.yaml, in `tree`. Its output is in `log`."""

    def __init__(self, name: str, sweep: str, changes: Flat, tree: Path, store: str) -> None:
        self.name, self.tree = name, tree
        self.log = trees.folder(sweep) / f"{name}.log"
        self.began, self.since = time.monotonic(), time.strftime("%Y%m%dT%H%M%S")
        self.epoch, self.is_trained = 0, False
        self._position, self._told = 0, dict[str, Event]()
        flags = [word for key, value in changes.items() for word in ("-S", f"{key}={overrides.word(key, value)}")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                dvc_cli.command("exp", "run", "--temp", "--name", name, *flags),
                cwd=tree,
                env=dvc_cli.environment() | {"RETRACE_SWEEP": sweep, "MLFLOW_TRACKING_URI": store},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who end all of it
                preexec_fn=_die_with_us,  # noqa: PLW1509 - no other thread has a lock that this would need
            )

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def epochs(self, metric: str) -> Iterator[tuple[int, float]]:
        """The epochs that training has told since the last time, with their values."""
        path = next((path for path, start in self._journals() if start["stage"] == "train"), None)
        if path is None:
            return
        events: list[Event] = []
        with suppress(FileNotFoundError):  # it is put away just now; next time it is there
            events, self._position = journal.read_from(path, self._position)
        for event in events:
            self.is_trained |= event["kind"] in ("headline", "end")
            if event["kind"] == "metrics" and metric in event["values"]:
                self.epoch = event["step"]
                yield event["step"], event["values"][metric]

    def prune(self, why: str) -> None:
        """It is over, and says why; nothing is kept from which it could go on."""
        for path, start in self._journals():
            if start["stage"] == "train":
                with suppress(FileNotFoundError):
                    journal.append(path, {"kind": "tags", "time": journal.now(), "values": {"retrace.pruned": why}})
        self.stop()
        told = {start["id"] for _, start in self._journals()}
        for folder in checkpoint.every():
            with suppress(OSError, IndexError, KeyError, ValueError):
                if checkpoint.facts(checkpoint.in_folder(folder)[-1])["run"] in told:
                    checkpoint.remove(folder)

    def stop(self) -> None:
        """It is over; where it was training, it goes on from there another time."""
        for _, start in self._journals():
            if processes.alive(start["process"]):
                with suppress(ProcessLookupError):
                    os.kill(start["process"]["pid"], signal.SIGTERM)
                with suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
                    psutil.Process(start["process"]["pid"]).wait(ENDS_S)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(SAVES_S if self._told else 0)
        self.process.kill()  # its stage, if it has one, ends by itself then
        self.process.wait()

    def commit(self) -> str | None:
        """The experiment's commit, which the repository at hand now has; None where DVC ended without one."""
        return trees.bring(self.tree, self.name) if self.process.returncode == 0 else None

    def reason(self) -> str:
        """Why it failed, in a line."""
        for path, _ in reversed(list(self._journals())):
            with suppress(FileNotFoundError):
                end = journal.end_of(journal.read(path))
                if end and end["status"] != "FINISHED":
                    return end.get("error", end["status"])
        said = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in said.splitlines() if line.strip() and not re.match(r"WARNING|[>\s]", line)]
        before = [line for line in lines if not line.startswith("ERROR")]
        return redacted((before or lines or [f"DVC ended with {self.process.returncode}"])[-1])[:300]

    def _journals(self) -> Iterator[tuple[Path, Event]]:
        """Those of its stages, uploaded or not, oldest first, each with its first line."""
        folder = tracking.folder()
        found = {path.name: path for path in [*folder.glob("*.jsonl"), *folder.glob("uploaded/*.jsonl")]}
        for name in sorted(name for name in found if name >= self.since):
            if name not in self._told:
                with suppress(FileNotFoundError):
                    begun = journal.read(found[name])[:1]
                    self._told |= {name: begun[0]} if begun else {}
            start = self._told.get(name, {})
            if start.get("experiment", {}).get("dvc.exp_name") == self.name:
                yield found[name], start


def _die_with_us() -> None:
    """In a child: when its parent is gone, so is it, and with DVC its stage."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
