"""A real stage that obeys a test, with its event log and its background uploader."""

import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil
from mlflow import MlflowClient, artifacts
from mlflow.entities import Run
from repository import ROOT, environment

from faults.servers import until
from retrace import event_log

SCRIPT = """
import sys
import retrace
from lab import paths
from retrace import errors
from retrace.system import files

def main():
    with retrace.stage(sys.argv[1]) as run:
        print("ready", flush=True)
        for line in sys.stdin:
            word, _, rest = line.strip().partition(" ")
            if word == "epoch":
                run.metrics({"train_loss": 1 / float(rest), "val_loss": 2 / float(rest)}, int(rest))
                run.sync()
            elif word == "raise":
                raise ValueError(rest)
            elif word == "exit":
                sys.exit(int(rest))
            print(line.strip(), flush=True)
        with files.atomic(paths.HISTORY) as unfinished:  # four stages may write it at once
            unfinished.write_bytes(bytes(range(256)) * 1000)
        run.artifact(paths.HISTORY, summary=True)
        run.tags(colour="red")
        run.metrics({"train_s": 1.5})
        run.summary({"val_loss": 0.25})

errors.run(main)
"""
HISTORY = "reports/history.csv"
CONTENT = bytes(range(256)) * 1000


class Stage:
    """A running stage. At the end of the context, it and its uploader are killed."""

    def __init__(self, folder: Path, name: str = "train", **env: str) -> None:
        self.errors = folder / f"stderr-{name}-{uuid.uuid4().hex[:8]}"
        self.began = time.monotonic()
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, name],
                cwd=folder,
                env=stage_environment(folder) | env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        if self._out.readline() != "ready\n":
            self.process.wait()
            raise AssertionError(self.stderr)
        (self.log,) = [path for path in event_logs(folder) if self._is_own(path)]
        self.uploader = next(
            child
            for child in psutil.Process(self.process.pid).children()
            if "retrace.tracking.uploader" in child.cmdline()
        )

    @property
    def stderr(self) -> str:
        return self.errors.read_text()

    @property
    def _out(self) -> IO[str]:
        assert self.process.stdout
        return self.process.stdout

    @property
    def _in(self) -> IO[str]:
        assert self.process.stdin
        return self.process.stdin

    def tell(self, word: str, *, answered: bool = True) -> None:
        """Send a command to the stage and wait until it is done."""
        self._in.write(f"{word}\n")
        self._in.flush()
        if answered:
            assert self._out.readline() == f"{word}\n", self.stderr

    def kill_uploader(self) -> None:
        """Kill its background uploader."""
        self.uploader.kill()
        until(self.has_no_uploader, what="the end of the uploader")

    def has_no_uploader(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            return self.uploader.status() == psutil.STATUS_ZOMBIE
        return True

    def await_reading(self) -> None:
        """Wait until the uploader reads the event log again: after each reading of its meter."""
        n_before = len(readings(self.log))
        until(lambda: len(readings(self.log)) > n_before, what="a reading of the meter")

    def end(self, code: int = 0) -> None:
        """Let the stage finish, and check its exit code."""
        self._in.close()
        assert self.process.wait(120) == code, self.stderr

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(120)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.process.kill()
        with suppress(psutil.NoSuchProcess):
            self.uploader.kill()
        for pipe in (self._in, self._out):
            with suppress(BrokenPipeError):
                pipe.close()
        self.process.wait()

    def _is_own(self, path: Path) -> bool:
        begun = event_log.read(path)[:1]  # nothing yet, of one that starts at the same time
        return bool(begun) and begun[0].get("process", {}).get("pid") == self.process.pid


def stage_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a stage or a command in `folder`."""
    return environment(folder / "cache") | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def set_params(folder: Path, **changed: str) -> None:
    """Change values in the params.yaml of `folder`: another experiment."""
    file = folder / "params.yaml"
    lines = file.read_text().splitlines()
    for key, value in changed.items():
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"{key}:")]
        lines[at] = f"{key}: {value}"
    file.write_text("\n".join(lines) + "\n")


def event_logs(folder: Path) -> list[Path]:
    """List all event logs, uploaded or not."""
    kept = folder / ".retrace/journal"
    return sorted([*kept.glob("*.jsonl"), *kept.glob("uploaded/*.jsonl")])


def pending(folder: Path) -> list[str]:
    """List the names of the event logs that MLflow lacks."""
    return [path.name for path in event_log.pending(folder / ".retrace/journal")]


def events_in(folder: Path, name: str) -> list[event_log.Event]:
    """Return the events of the event log `name`, uploaded or not."""
    (path,) = [path for path in event_logs(folder) if path.name == name]
    return event_log.read(path)


def readings(path: Path) -> list[event_log.Event]:
    """Return the events with system metrics."""
    return [
        event
        for event in event_log.read(path)
        if "system/system_memory_usage_percentage" in event.get("values", {})
    ]


def sync(folder: Path, **env: str) -> str:
    """Run `retrace sync`, which must succeed, and return what it printed."""
    code, output = tried(folder, **env)
    assert code == 0, output
    return output


def tried(folder: Path, **env: str) -> tuple[int, str]:
    """Run `retrace sync` and return its exit code and what it printed."""
    with syncing(folder, **env) as process:
        output, _ = process.communicate(timeout=120)
    return process.returncode, output


def syncing(folder: Path, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["retrace", "sync"],
        cwd=folder,
        env=stage_environment(folder) | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


HIDDEN = ("journal", "process")  # tags that MLflow offers as no column


def find_runs(store: str, **tags: str) -> list[Run]:
    """Find the runs with these `retrace.` tags, oldest first."""
    client = MlflowClient(store)
    names = {name: f"{'mlflow.' if name in HIDDEN else ''}retrace.{name}" for name in tags}
    query = " and ".join(f"tags.`{names[name]}` = '{value}'" for name, value in tags.items())
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, query, order_by=["start_time ASC"]))


def child(store: str, path: Path) -> Run:
    """Return the only run of the event log at `path`."""
    (run,) = find_runs(store, journal=path.stem)
    return run


def parents(store: str, folder: Path) -> list[Run]:
    """Return the parent runs of all event logs of `folder`."""
    keys = dict.fromkeys(event_log.read(path)[0]["key"] for path in event_logs(folder))
    return [run for key in keys for run in find_runs(store, key=key)]


def check_complete(store: str, folder: Path, path: Path, status: str = "FINISHED") -> Run:
    """Check that MLflow has all of an event log, each point once; return its run."""
    events = events_in(folder, path.name)
    client = MlflowClient(store)
    run = child(store, path)
    assert run.info.status == status
    assert events[-1]["status"] == status
    points: dict[str, list[tuple[int, float, int]]] = {}
    for event in (event for event in events if event["kind"] == "metrics"):
        for name, value in event["values"].items():
            points.setdefault(name, []).append((event["step"], value, event["time"]))
    for name, expected in points.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert sorted((point.step, point.value, point.timestamp) for point in history) == sorted(
            expected
        ), name
        assert len({point.step for point in history}) == len(history), name
    if status == "FINISHED":
        above = client.get_run(run.data.tags["mlflow.parentRunId"])
        assert above.data.metrics == {"val_loss": 0.25}
        assert above.info.status == "FINISHED"
        for one in (run, above):
            assert artifact(store, one, HISTORY) == CONTENT
    assert path.name not in pending(folder)
    return run


def artifact(store: str, run: Run, path: str) -> bytes:
    return Path(
        artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path, tracking_uri=store)
    ).read_bytes()
