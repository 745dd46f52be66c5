"""`retrace dvc`: run DVC so that each stage of the pipeline is tracked, and change nothing else."""

import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from retrace.cli import arguments
from retrace.errors import RetraceError
from retrace.pipeline import dvc_cli

GROUP = "run"
SUMMARY = "run DVC with every stage tracked: in any DVC repository, which stays as it is"
EXAMPLES = (
    "retrace dvc repro                  each stage becomes a run in MLflow",
    "retrace dvc exp run -S lr=0.01     an experiment, its output as in DVC",
    "retrace dvc queue start            the queue's workers track their stages too",
)


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_words(parser, "ARGS", "the words of a `dvc` command, options too")


def run(args: Namespace) -> NoReturn:
    become_dvc(arguments.words(args))


def become_dvc(words: list[str]) -> NoReturn:
    """Replace this process by DVC, with a SHELL that tracks the commands of stages.

    So its exit code, its output and what it does on a signal are DVC's own. Raises RetraceError if
    there is no DVC in PATH.
    """
    from retrace.tracking import shell

    program = shutil.which("dvc")
    if program is None:
        raise RetraceError("there is no `dvc` in PATH; activate its environment, or install it")
    root = _root()
    if root:
        exclude(root)
        if fault := dvc_cli.path_fault(root):
            print(f"warning: {fault}", file=sys.stderr, flush=True)
    shell.restore_signals()
    os.execve(program, ["dvc", *words], shell.for_dvc())  # noqa: S606


def _root() -> Path | None:
    """Return DVC's root, the nearest folder with .dvc/; None outside a DVC repository."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), None)


def exclude(root: Path) -> None:
    """Keep what tracking writes in a repository out of `git status`, by its `info/exclude`."""
    from retrace.pipeline import git, git_patch

    with suppress(OSError):  # git's folder is read-only
        git.exclude(root, *git_patch.WRITTEN_BY_US)
