"""Git: what DVC needs, and what an interrupted `dvc exp run` leaves behind."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

from retrace.doctor.findings import Check, Finding, ok, problem, warning
from retrace.pipeline import dvc_cli, git, git_process
from retrace.system import files
from retrace.system.text import command, count

BUSY_S = 10.0  # git holds its lock for less


def present() -> Iterator[Finding]:
    """Check that there is a commit from which experiments can start."""
    if refusal := git_process.refusal():
        yield problem(f"{refusal.reason}; runs lack their commit and code.patch", refusal.cure)
    elif git.output("rev-parse", "--git-dir") is None:
        state = "no git repository here; DVC needs one, and retrace records the commit of each run"
        yield problem(state, "git init && git add --all && git commit --message start")
    elif git.output("rev-parse", "--verify", "HEAD") is None:
        state = "no commit yet; an experiment is based on one"
        yield problem(state, "git add --all && git commit -m start")
    else:
        yield ok("a git repository, with a commit")


def identity() -> Iterator[Finding]:
    """Check that git knows the author of commits."""
    if git.output("rev-parse", "--git-dir") is None:
        return
    missing = [key for key in ("user.name", "user.email") if not git.output("config", key)]
    who = {"user.name": "'Your Name'", "user.email": "you@example.org"}
    if missing:
        repair = " && ".join(f"git config {key} {who[key]}" for key in missing)
        yield warning(f"git lacks {' and '.join(missing)}, so it cannot commit", repair)
    else:
        yield ok(f"commits are by {git.output('config', 'user.name')}")


def path() -> Iterator[Finding]:
    """Check that DVC can run everything at this path."""
    root = files.root()
    fault = dvc_cli.path_fault(root)
    if fault and not dvc_cli.BRACES.isdisjoint(str(root)):
        yield problem(fault)
    elif fault:
        yield warning(fault)


def lock() -> Iterator[Finding]:
    """Check that no killed git has left its lock, which blocks git and DVC."""
    path = git.output("rev-parse", "--git-path", "index.lock")
    file = Path(path) if path else None
    if file and file.exists() and time.time() - file.stat().st_mtime > BUSY_S:
        state = f"{file} was left behind by a killed git process and blocks git and DVC"
        yield problem(state, command("rm", file))


def head() -> Iterator[Finding]:
    """Check that HEAD is on a branch, unless the user detached it: DVC detaches it for a moment."""
    if git.output("symbolic-ref", "--quiet", "HEAD") is not None:
        return
    reflog = git.output("reflog", "--format=%gs", "HEAD") or ""
    moves = re.findall(r"^checkout: moving from (\S+) to (\S+)$", reflog, re.MULTILINE)
    if not moves:
        return
    branch, commit = moves[0]
    if commit == git.output("rev-parse", f"refs/heads/{branch}") == git.head_commit():
        state = f"HEAD is detached from {branch}; unless you did this, an interrupted "
        state += "`dvc exp run` did"
        yield warning(state, command("git", "switch", branch))


def stash() -> Iterator[Finding]:
    """Check that git's stash is empty.

    An interrupted `dvc exp run` leaves the user's edits there (treeverse/dvc#10655).
    """
    entries = (git.output("stash", "list", "--format=%gs") or "").splitlines()
    if entries:
        n_entries = count(len(entries), "entry", "entries")
        state = f"git's stash has {n_entries}, the newest is {entries[0]!r}; if you did not create "
        state += "it, an interrupted `dvc exp run` stashed your edits there"
        if git.output("diff", "--quiet", "HEAD") is None:
            state += "; first commit or restore your other changes"
        yield warning(state, "git stash pop")


CHECKS: dict[str, Check] = {
    "git": present,
    "path": path,
    "identity": identity,
    "git lock": lock,
    "HEAD": head,
    "stash": stash,
}
