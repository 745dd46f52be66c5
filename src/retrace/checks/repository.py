"""Git: what DVC needs of it, and what an interrupted `dvc exp run` leaves in it."""

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from retrace import git
from retrace.checks.findings import Check, Finding, ok, problem, warning

BUSY_S = 10.0  # a lock of git's is held for less


def present() -> Iterator[Finding]:
    """There is a repository, with a commit that experiments can start from."""
    if git.output("rev-parse", "--git-dir") is None:
        said = "no git repository here, which DVC needs, and which says what code a run had"
        yield problem(said, "git init && git add --all && git commit --message start")
    elif git.output("rev-parse", "--verify", "HEAD") is None:
        yield problem("no commit yet, from which an experiment could start", "git add --all && git commit -m start")
    else:
        yield ok("a git repository, with a commit")


def identity() -> Iterator[Finding]:
    """Git knows whose commits it makes."""
    if git.output("rev-parse", "--git-dir") is None:
        return
    missing = [key for key in ("user.name", "user.email") if not git.output("config", key)]
    who = {"user.name": "'Your Name'", "user.email": "you@example.org"}
    if missing:
        repair = " && ".join(f"git config {key} {who[key]}" for key in missing)
        yield warning(f"git lacks {' and '.join(missing)}, and will not commit", repair)
    else:
        yield ok(f"commits are {git.output('config', 'user.name')}'s")


def lock() -> Iterator[Finding]:
    """No killed git has left its lock, with which neither git nor DVC works."""
    named = git.output("rev-parse", "--git-path", "index.lock")
    file = Path(named) if named else None
    if file and file.exists() and time.time() - file.stat().st_mtime > BUSY_S:
        yield problem(f"{file} was left by a git that was killed: nothing can be committed or run", f"rm {file}")


def head() -> Iterator[Finding]:
    """HEAD is on a branch, or its owner went elsewhere: DVC takes it off for a moment."""
    if git.output("symbolic-ref", "--quiet", "HEAD") is not None:
        return
    moves = re.findall(
        r"^checkout: moving from (\S+) to (\S+)$", git.output("reflog", "--format=%gs", "HEAD") or "", re.MULTILINE
    )
    if moves and moves[0][1] == git.output("rev-parse", f"refs/heads/{moves[0][0]}") == git.output("rev-parse", "HEAD"):
        branch = moves[0][0]
        said = f"HEAD was taken off {branch}: if not by you, then by a `dvc exp run` that was interrupted"
        yield warning(said, f"git switch {shlex.quote(branch)}")


def stash() -> Iterator[Finding]:
    """No edits wait in git's stash, where an interrupted `dvc exp run` leaves them (treeverse/dvc#10655)."""
    if entries := (git.output("stash", "list", "--format=%gs") or "").splitlines():
        said = f"{len(entries)} in git's stash, the newest {entries[0]!r}; if you did not put it there, an interrupted "
        said += "`dvc exp run` did, and it holds edits of yours"
        if git.output("diff", "--quiet", "HEAD") is None:
            said += "; first commit or restore what else is changed"
        yield warning(said, "git stash pop")


CHECKS: dict[str, Check] = {"git": present, "identity": identity, "git lock": lock, "HEAD": head, "stash": stash}
