"""Git: what DVC needs, and what an interrupted `dvc exp run` leaves behind."""

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from retrace.doctor.findings import Check, Finding, ok, problem, warning
from retrace.pipeline import git

BUSY_S = 10.0  # git keeps a lock for less


def present() -> Iterator[Finding]:
    """There is a repository with a commit from which experiments can start."""
    if git.output("rev-parse", "--git-dir") is None:
        said = "no git repository here, which DVC needs, and which keeps the code of each run"
        yield problem(said, "git init && git add --all && git commit --message start")
    elif git.output("rev-parse", "--verify", "HEAD") is None:
        yield problem(
            "no commit yet, from which an experiment could start",
            "git add --all && git commit -m start",
        )
    else:
        yield ok("a git repository, with a commit")


def identity() -> Iterator[Finding]:
    """Git knows the author of commits."""
    if git.output("rev-parse", "--git-dir") is None:
        return
    missing = [key for key in ("user.name", "user.email") if not git.output("config", key)]
    who = {"user.name": "'Your Name'", "user.email": "you@example.org"}
    if missing:
        repair = " && ".join(f"git config {key} {who[key]}" for key in missing)
        yield warning(f"git lacks {' and '.join(missing)}, so it cannot commit", repair)
    else:
        yield ok(f"commits are by {git.output('config', 'user.name')}")


def lock() -> Iterator[Finding]:
    """No killed git has left its lock, which blocks git and DVC."""
    path = git.output("rev-parse", "--git-path", "index.lock")
    file = Path(path) if path else None
    if file and file.exists() and time.time() - file.stat().st_mtime > BUSY_S:
        yield problem(
            f"{file} was left by a git that was killed: nothing can be committed or run",
            f"rm {file}",
        )


def head() -> Iterator[Finding]:
    """HEAD is on a branch, or the user detached it: DVC does so for a moment."""
    if git.output("symbolic-ref", "--quiet", "HEAD") is not None:
        return
    moves = re.findall(
        r"^checkout: moving from (\S+) to (\S+)$",
        git.output("reflog", "--format=%gs", "HEAD") or "",
        re.MULTILINE,
    )
    if moves and moves[0][1] == git.output("rev-parse", f"refs/heads/{moves[0][0]}") == git.output(
        "rev-parse", "HEAD"
    ):
        branch = moves[0][0]
        said = (
            f"HEAD was detached from {branch}: if not by you, then by an interrupted `dvc exp run`"
        )
        yield warning(said, f"git switch {shlex.quote(branch)}")


def stash() -> Iterator[Finding]:
    """Git's stash is empty: an interrupted `dvc exp run` leaves edits there (treeverse/dvc#10655)."""
    if entries := (git.output("stash", "list", "--format=%gs") or "").splitlines():
        said = f"{len(entries)} in git's stash, the newest {entries[0]!r}; if you did not put it there, "
        said += "an interrupted `dvc exp run` did, and it has edits of yours"
        if git.output("diff", "--quiet", "HEAD") is None:
            said += "; first commit or restore what else is changed"
        yield warning(said, "git stash pop")


CHECKS: dict[str, Check] = {
    "git": present,
    "identity": identity,
    "git lock": lock,
    "HEAD": head,
    "stash": stash,
}
