"""A DVC repository that knows nothing of retrace, and the `retrace` command of this tree."""

import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from repository import ROOT, Tree

from retrace import event_log
from retrace.event_log import Event
from retrace.system import isolated

PARAMS = "lr: 0.1\n"
JOURNAL = ".retrace/journal"


class Project(Tree):
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
        self.cache = cache
        self.env |= {"SHELL": "/bin/bash", "COLUMNS": "80"}
        programs = cache / "bin"
        programs.mkdir(exist_ok=True)
        (programs / "retrace").write_text(
            f'#!/bin/sh\nexec {sys.executable} -I {isolated.__file__} retrace.cli.main "$@"\n'
        )
        (programs / "retrace").chmod(0o755)
        self.env["PATH"] = f"{programs}:{self.env['PATH']}"
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


PYTHON = f"PYTHONPATH={ROOT / 'src'} {sys.executable}"
