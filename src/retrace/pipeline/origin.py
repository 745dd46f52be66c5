"""The source of an experiment's code and parameters: a commit, and what is not committed yet."""

from dataclasses import dataclass
from pathlib import Path

from retrace.errors import RetraceError
from retrace.pipeline import dvc_cli, git, git_process
from retrace.pipeline.workspace import Workspace
from retrace.system import files


@dataclass(frozen=True)
class Origin:
    """The source of code and parameters: a commit, and a patch with the uncommitted changes."""

    commit: str
    patch: bytes = b""

    def __str__(self) -> str:
        return f"commit {self.commit[:10]}" + (" and its code.patch" if self.patch else "")


def current_origin() -> Origin:
    """Return the code and parameters as they are now. Raises RetraceError without a commit."""
    if refusal := git_process.refusal(files.root()):
        raise RetraceError(str(refusal))
    if fault := dvc_cli.path_fault(files.root()):
        raise RetraceError(fault)
    commit = git.head_commit()
    if commit is None:
        reason = "has no commit yet, which an experiment needs; commit, then run the command again"
        raise RetraceError(f"{files.root()}: {reason}")
    return Origin(commit, Workspace(files.root()).changes())


def check_out_origin(tree: Path, origin: Origin) -> None:
    """Replace the files of the repository that `tree` is in by those of `origin`.

    Raises RetraceError if the commit does not exist here or the patch does not apply.
    """
    top = next(folder for folder in (tree, *tree.parents) if (folder / ".git").exists())
    try:
        git.run("cat-file", "-e", f"{origin.commit}^{{commit}}", folder=top)
    except RetraceError:
        reason = "it was never fetched, or `git gc` has deleted it; fetch it from another clone"
        raise RetraceError(f"commit {origin.commit} is not in this repository: {reason}") from None
    git.check_out(top, origin.commit, origin.patch)
