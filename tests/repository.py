"""A clone of this repository to run commands in, away from a user's own stores."""

import importlib.util
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from lab import paths
from retrace.pipeline import dvc_cli, git

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def environment(cache: Path) -> dict[str, str]:
    """Return this process's environment without access to a user's own stores."""
    return dvc_cli.environment("DVC_", "MLFLOW_", "RETRACE_", "PYTHONPATH") | {
        "RETRACE_CACHE": str(cache / "downloads"),
        "DVC_SITE_CACHE_DIR": str(cache / "dvc"),
        "GIT_CONFIG_GLOBAL": os.devnull,
    }


def cpu_s(call: Callable[[], object]) -> float:
    """Return the CPU seconds of the processes that `call` starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    call()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def stage(name: str) -> ModuleType:
    """Import the script of a stage, to run it in this process: imports take most of its time."""
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "stages" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Tree:
    """A folder to run commands in, as a user."""

    def __init__(self, path: Path, cache: Path) -> None:
        self.path = path
        self.env = environment(cache)

    def run(self, *command: str, code: int = 0, **env: str) -> str:
        """Run a command, check its exit code and return what it printed."""
        ended = subprocess.run(
            command,
            cwd=self.path,
            env=self.env | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        output = ended.stdout + ended.stderr
        assert ended.returncode == code, output
        return output

    def queue(self) -> str:
        """Return DVC's table of the queue. DVC fails while a worker writes it, so try again."""
        output = self.type(" || ".join(["dvc queue status"] * 3))
        return output[output.rfind("Task ") :]

    def type(self, command: str, code: int = 0) -> str:
        """Run a command line in a shell and return what it printed."""
        return self.run("bash", "-c", command, code=code)

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        self.run("git", *who, "commit", "--quiet", "--allow-empty", "--message", message)


class Clone(Tree):
    """A repository with a copy of the working tree's files and one commit."""

    def __init__(self, path: Path, cache: Path, edits: dict[str, str]) -> None:
        super().__init__(path, cache)
        listing = git.run(
            "ls-files", "-z", "--cached", "--others", "--exclude-standard", folder=ROOT
        )
        for name in filter(None, listing.decode().split("\0")):
            if (ROOT / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, path / name)
        edited = (path / paths.PARAMS).read_text()
        for old, new in edits.items():
            assert edited.count(f"\n{old}") == 1, old
            edited = edited.replace(f"\n{old}", f"\n{new}")
        (path / paths.PARAMS).write_text(edited)
        self.run("git", "init", "--quiet")
        self.commit("start")
