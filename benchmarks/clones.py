"""Clones of the working tree, in which stages run without changing the user's files."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from lab import paths
from retrace.errors import RetraceError
from retrace.pipeline import dvc_cli, git


class Repository:
    """A new git repository, whose commands see neither the user's DVC nor MLflow settings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # The last one, because a user's Python writes its compiled files.
        removed = ("DVC_", "MLFLOW_", "PYTHONDONTWRITEBYTECODE")
        added = {"PYTHONPATH": "src", "DVC_SITE_CACHE_DIR": str(path.with_suffix(".cache"))}
        self.env = dvc_cli.environment(*removed) | added
        path.mkdir(parents=True)
        self.run("git", "init", "--quiet")

    def run(self, *command: str, **env: str) -> str:
        """Run a command and return its output; raise RetraceError with the output if it fails."""
        ended = subprocess.run(
            command, cwd=self.path, env=self.env | env, capture_output=True, text=True, check=False
        )
        if ended.returncode != 0:
            raise RetraceError(
                f"{' '.join(command)} exited with {ended.returncode}: {ended.stdout}{ended.stderr}"
            )
        return ended.stdout

    def seconds(self, *command: str) -> float:
        began = time.perf_counter()
        self.run(*command)
        return time.perf_counter() - began

    def commit(self) -> None:
        self.run("git", "add", "--all")
        who = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
        self.run("git", *who, "commit", "--quiet", "--allow-empty", "--message", "as it is")


class Clone(Repository):
    """A repository with the working tree's files in one commit, set to the data set `dataset`."""

    def __init__(self, path: Path, dataset: str) -> None:
        super().__init__(path)
        self.dataset = dataset
        listing = git.run("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode()
        for name in filter(os.path.isfile, listing.split("\0")):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, path / name)
        chosen = re.sub(
            r"(?m)^dataset: \w+",
            f"dataset: {dataset}",
            (path / paths.PARAMS).read_text(encoding="utf-8"),
        )
        (path / paths.PARAMS).write_text(chosen, encoding="utf-8")
        self.commit()
