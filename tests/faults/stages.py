"""A stage that does what a test tells it, with a real journal and a real process beside it."""

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
from retrace import errors
from retrace.system import files
from lab import paths
from retrace.tracking.stage import stage

def main():
    with stage.stage(sys.argv[1]) as run:
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
        with files.atomic(paths.HISTORY) as unfinished:  # as stages do: here, four of them write the same file
            unfinished.write_bytes(bytes(range(256)) * 1000)
        run.artifact(paths.HISTORY, headline=True)
        run.tags(colour="red")
        run.metrics({"train_s": 1.5})
        run.headline({"val_loss": 0.25})

errors.run(main)
"""
HISTORY = "reports/history.csv"
CONTENT = bytes(range(256)) * 1000


class Stage:
    """A running stage. `said` is what it wrote to stderr; leaving the context kills what is left of it."""

    def __init__(self, folder: Path, name: str = "train", **env: str) -> None:
        self.errors = folder / f"stderr-{name}-{uuid.uuid4().hex[:8]}"
        self.began = time.monotonic()
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, name],
                cwd=folder,
                env=surroundings(folder) | env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        if self._out.readline() != "ready\n":
            self.process.wait()
            raise AssertionError(self.said)
        (self.journal,) = [path for path in journals(folder) if self._is_own(path)]
        self.follower = next(
            child
            for child in psutil.Process(self.process.pid).children()
            if "retrace.tracking.uploader" in child.cmdline()
        )

    @property
    def said(self) -> str:
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
        """The stage has done what `word` says."""
        self._in.write(f"{word}\n")
        self._in.flush()
        if answered:
            assert self._out.readline() == f"{word}\n", self.said

    def alone(self) -> None:
        """The process beside it is killed."""
        self.follower.kill()
        until(self.unfollowed, what="the end of the process beside it")

    def unfollowed(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            return self.follower.status() == psutil.STATUS_ZOMBIE
        return True

    def looked_at(self) -> None:
        """The process beside it looks at the journal once more, which it does after each reading of its meter."""
        read = len(readings(self.journal))
        until(lambda: len(readings(self.journal)) > read, what="a reading of the meter")

    def end(self, code: int = 0) -> None:
        """It has nothing more to do, and ended with `code`."""
        self._in.close()
        assert self.process.wait(120) == code, self.said

    def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Its exit code, after that signal."""
        self.process.send_signal(number)
        return self.process.wait(120)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.process.kill()
        with suppress(psutil.NoSuchProcess):
            self.follower.kill()
        for pipe in (self._in, self._out):
            with suppress(BrokenPipeError):
                pipe.close()
        self.process.wait()

    def _is_own(self, path: Path) -> bool:
        begun = event_log.read(path)[:1]  # nothing yet, of one that starts at the same time
        return bool(begun) and begun[0].get("process", {}).get("pid") == self.process.pid


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of a stage in `folder`, or of a command there."""
    return environment(folder / "cache") | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def another(folder: Path, **changed: str) -> None:
    """`folder` holds another experiment: params.yaml has these values."""
    file = folder / "params.yaml"
    lines = file.read_text().splitlines()
    for key, value in changed.items():
        (at,) = [number for number, line in enumerate(lines) if line.startswith(f"{key}:")]
        lines[at] = f"{key}: {value}"
    file.write_text("\n".join(lines) + "\n")


def journals(folder: Path) -> list[Path]:
    """All journals, uploaded or not."""
    kept = folder / ".retrace/journal"
    return sorted([*kept.glob("*.jsonl"), *kept.glob("uploaded/*.jsonl")])


def pending(folder: Path) -> list[str]:
    return [path.name for path in event_log.pending(folder / ".retrace/journal")]


def told(folder: Path, name: str) -> list[event_log.Event]:
    """The events of the journal called `name`, wherever it is by now."""
    (path,) = [path for path in journals(folder) if path.name == name]
    return event_log.read(path)


def readings(path: Path) -> list[event_log.Event]:
    """What the meter read so far."""
    return [
        event
        for event in event_log.read(path)
        if "system/system_memory_usage_percentage" in event.get("values", {})
    ]


def sync(folder: Path, **env: str) -> str:
    """What `retrace sync` printed, after it ended well."""
    code, output = tried(folder, **env)
    assert code == 0, output
    return output


def tried(folder: Path, **env: str) -> tuple[int, str]:
    """How `retrace sync` ended, and what it printed."""
    with syncing(folder, **env) as process:
        output, _ = process.communicate(timeout=120)
    return process.returncode, output


def syncing(folder: Path, **env: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["retrace", "sync"],
        cwd=folder,
        env=surroundings(folder) | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def found(store: str, **tags: str) -> list[Run]:
    """The runs with these tags of ours, oldest first."""
    client = MlflowClient(store)
    asked = " and ".join(f"tags.`retrace.{name}` = '{value}'" for name, value in tags.items())
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, asked, order_by=["start_time ASC"]))


def child(store: str, path: Path) -> Run:
    """The only run of the journal at `path`."""
    (run,) = found(store, journal=path.stem)
    return run


def parents(store: str, folder: Path) -> list[Run]:
    """The parent runs of the experiments that the journals of `folder` tell of."""
    keys = dict.fromkeys(event_log.read(path)[0]["key"] for path in journals(folder))
    return [run for key in keys for run in found(store, key=key)]


def check_complete(store: str, folder: Path, path: Path, status: str = "FINISHED") -> Run:
    """MLflow has all that the journal at `path` tells, each point of it once, and this status; returns the run."""
    events, client, run = told(folder, path.name), MlflowClient(store), child(store, path)
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
