"""A DVC repository that knows nothing of retrace, and the `retrace` command of this tree."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import psutil
import yaml
from faults.servers import until, unused_port
from mlflow.entities import Run
from repository import ROOT, Tree

from retrace import event_log
from retrace.event_log import Event
from retrace.pipeline import git, lockfile
from retrace.pipeline.workspace import Workspace
from retrace.store import cached_stages
from retrace.system import isolated

PARAMS = "lr: 0.1\n"
JOURNAL = ".retrace/journal"
PYTHON = f"PYTHONPATH={ROOT / 'src'} {sys.executable}"
AUTHOR = {
    f"GIT_{who}_{what}": "ann@localhost"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}
# Stands for a program: with a word among its arguments it waits to be killed.
WAITING = """#!/bin/sh
case " $* " in *" {word} "*) echo $$ > {pid}; exec sleep 300 ;; esac
exec {program} "$@"
"""


class Stranger(Tree):
    """A folder with copies of the files of another, as a user's own, and `retrace` in PATH."""

    def __init__(self, path: Path, cache: Path, source: Path | None = None) -> None:
        super().__init__(path, cache)
        self.cache = cache
        self.printed: dict[str, str] = {}  # what commands printed, for a test
        self.programs = cache / "bin"
        self.programs.mkdir(exist_ok=True)
        self._install("retrace", f"{sys.executable} -I {isolated.__file__} retrace.cli.main")
        self.env |= AUTHOR | {"SHELL": "/bin/bash", "COLUMNS": "80"}
        self.env["PATH"] = f"{self.programs}:{self.env['PATH']}"
        if source:
            for name in _files(source):
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / name, path / name)

    def _install(self, name: str, command: str) -> None:
        (self.programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (self.programs / name).chmod(0o755)

    def kill_in(self, word: str, *command: str, program: str = "python") -> None:
        """Run a command of DVC, and kill -9 it in the stage whose program is called with `word`."""
        pid = self.cache / "pid.txt"
        real = shutil.which(program, path=self.env["PATH"])
        waiting = self.programs / program
        waiting.write_text(WAITING.format(word=word, pid=pid, program=real))
        waiting.chmod(0o755)
        try:
            with subprocess.Popen(
                command,
                cwd=self.path,
                env=self.env,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                until(lambda: pid.exists() and pid.read_text(), what=f"{program} {word}")
                stage = int(pid.read_text())
                process.send_signal(signal.SIGKILL)
                if command[0] != "retrace":
                    os.kill(stage, signal.SIGKILL)  # DVC's own stages outlive it
        finally:
            waiting.unlink()
        until(lambda: not psutil.pid_exists(stage), what="the end of the stage")
        pid.unlink()

    def repro_after_kill(self, word: str, *command: str, program: str = "python") -> None:
        """Kill a command in a stage, run it again, and commit what it made."""
        self.kill_in(word, *command, program=program)
        self.run(*command)
        self.printed["status"] = self.type("git status --short")
        self.commit("reproduced")

    def repro_without_store(self, stage: str) -> None:
        """Run a stage once more while the store does not answer, then `retrace sync`."""
        words = ("retrace", "dvc", "repro", "--force", "--single-item", stage)
        dead = f"http://127.0.0.1:{unused_port()}"
        self.printed["dead"] = self.run(*words, MLFLOW_TRACKING_URI=dead)
        self.printed["sync"] = self.type("retrace sync")

    def sweep(self, words: str) -> list[dict[str, Any]]:
        """Return the trials of a sweep of six, all complete, the best first."""
        command = f"retrace sweep {words} --trials 6 --no-prune --json"
        document = json.loads(self.type(f"{command} 2> sweep.log"))
        (self.path / "sweep.log").unlink()
        trials = document["trials"]
        assert [trial["state"] for trial in trials] == ["complete"] * 6
        best_first = sorted(trials, key=lambda trial: trial["value"])
        if document["direction"] == "maximize":
            best_first.reverse()
        assert document["best"]["value"] == best_first[0]["value"]
        return best_first

    def findings(self) -> dict[str, list[str]]:
        """Return what `retrace doctor` finds, by check."""
        document = json.loads(self.type("retrace doctor --json 2> /dev/null || test $? = 1"))
        by_check: dict[str, list[str]] = {}
        for finding in document["findings"]:
            by_check.setdefault(finding["check"], []).append(finding["what"])
        return by_check

    def wait_for_uploads(self) -> None:
        logs = self.path / JOURNAL
        until(lambda: not any(logs.glob("*.jsonl")), 120.0, "the uploads")

    def wait_for_experiment(self, name: str) -> None:
        names = "dvc exp list --name-only"
        until(lambda: name in self.type(names), 120.0, f"experiment {name}", every_s=2.0)


class Project(Stranger):
    """A repository with one commit, whose dvc.yaml has these stages, and with an empty store."""

    def __init__(
        self,
        path: Path,
        cache: Path,
        store: Path,
        stages: dict[str, Any],
        files: dict[str, str] | None = None,
    ) -> None:
        super().__init__(path, cache)
        document = yaml.safe_dump({"stages": stages}, sort_keys=False)
        texts = {"params.yaml": PARAMS, "dvc.yaml": document} | (files or {})
        for name, text in texts.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        self.type("git init --quiet && dvc init --quiet")
        self.commit("start")
        shutil.copy(store, path / "mlflow.db")

    def logs(self, stage: str) -> list[list[Event]]:
        """Return the event logs of a stage, oldest first."""
        paths = (self.path / JOURNAL).rglob(f"*-{stage}-*.jsonl")
        return sorted(map(event_log.read, paths), key=lambda events: events[0]["time"])

    def log(self, stage: str) -> list[Event]:
        (only,) = self.logs(stage)
        return only

    def status(self, stage: str) -> tuple[str, str | None]:
        """Return the status and the error of the newest attempt at a stage."""
        end = event_log.end_of(self.logs(stage)[-1])
        assert end
        return end["status"], end.get("error")


class Store:
    """The runs in the MLflow store of a repository."""

    def __init__(self, root: Path) -> None:
        self.client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
        self.experiment = self.client.get_experiment_by_name(root.name)
        assert self.experiment
        runs = self._search("attributes.start_time > 0")
        self.parents = [run for run in runs if "retrace.key" in run.data.tags]

    def parent(self, name: str | None) -> Run:
        """Return the run of a DVC experiment; without a name, of the only one that has none."""
        (run,) = [each for each in self.parents if each.data.tags.get("dvc.exp_name") == name]
        return run

    def attempts(self, parent: Run) -> list[tuple[str, str]]:
        """Return the stage and the status of each run below a parent, oldest first."""
        return [(run.data.tags["retrace.stage"], run.info.status) for run in self.below(parent)]

    def stages(self, parent: Run) -> dict[str, Run]:
        """Return the newest run of each stage below a parent."""
        return {run.data.tags["retrace.stage"]: run for run in self.below(parent)}

    def below(self, parent: Run) -> list[Run]:
        return self._search(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")

    def check_lineage(self, parent: Run, root: Path) -> None:
        """Compare the hashes of each stage's files with dvc.lock."""
        locked = Workspace(root).locked
        stages = self.stages(parent)
        assert stages
        for name, run in stages.items():
            for kind, recorded in (("deps", locked[name].deps), ("outs", locked[name].outs)):
                assert cached_stages.hashes(run, kind) == lockfile.md5s(recorded)

    def curve(self, run: Run, metric: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(run.info.run_id, metric)
        return [(point.step, point.value) for point in history]

    def artifacts(self, run: Run, folder: str | None = None) -> list[str]:
        return [file.path for file in self.client.list_artifacts(run.info.run_id, folder)]

    def _search(self, query: str) -> list[Run]:
        assert self.experiment
        oldest_first = ["attributes.start_time ASC"]
        return list(
            self.client.search_runs([self.experiment.experiment_id], query, order_by=oldest_first)
        )


def _files(folder: Path) -> list[str]:
    """Return the files in a folder of this repository, without those that git ignores."""
    listing = git.run("ls-files", "-z", "--cached", "--others", "--exclude-standard", folder=folder)
    return [name for name in listing.decode().split("\0") if name and (folder / name).is_file()]
