"""Read many commits with one git process: their trees, and the files that are asked for."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

from retrace.errors import RetraceError
from retrace.pipeline import git, git_process

FOLDER = b"40000"  # modes of a tree's entries
FILES = (b"100644", b"100755")
UNSAFE = ("", ".", "..", ".git")  # names that a tree made by hand may have
MAX_TREES = 20_000  # kept in memory
SEPARATOR = "\x1f"  # ASCII's own
FORM = ("--no-commit-header", "--format=%H %ct %an%x1f%s")


@dataclass(frozen=True)
class Commit:
    """A commit: its hash, when it was made, its author, and the first line of its message.

    The time is in milliseconds since 1970.
    """

    rev: str
    time: int
    author: str
    subject: str


class Objects:
    """Git's objects, by their ids or names."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self.entries = lru_cache(MAX_TREES)(self._entries)

    def find(self, name: str) -> tuple[str, str, int] | None:
        """Return the id, the type and the size in bytes of an object; None if there is none.

        The name is an id, or such as `main:folder`.
        """
        header = self._ask(f"info {name}")
        if len(header) != 3:
            return None
        identity, kind, size = header
        return identity, kind, int(size)

    def read(self, identity: str) -> bytes:
        """Return an object's content. Raises RetraceError if the repository does not have it."""
        header = self._ask(f"contents {identity}")
        if len(header) != 3:
            raise RetraceError(f"git has no object {identity}; is this a partial clone?")
        assert self._process.stdout  # noqa: S101 - a pipe
        content = self._process.stdout.read(int(header[2]) + 1)  # and a line end
        return content[:-1]

    def _entries(self, tree: str) -> dict[str, tuple[bool, str]]:
        """Return a tree's folders and files: whether it is a folder, and the id, by name."""
        content = self.read(tree)
        n_bytes = len(tree) // 2
        entries: dict[str, tuple[bool, str]] = {}
        position = 0
        while position < len(content):
            end = content.index(b"\0", position)
            mode, _, name = content[position:end].partition(b" ")
            position = end + 1 + n_bytes
            path = os.fsdecode(name)
            if (mode == FOLDER or mode in FILES) and path not in UNSAFE and "/" not in path:
                entries[path] = (mode == FOLDER, content[end + 1 : position].hex())
        return entries

    def _ask(self, command: str) -> list[str]:
        """Return the words of git's answer; not three if there is no such object."""
        if "\n" in command or self._process.stdin is None or self._process.stdout is None:
            return []
        self._process.stdin.write(os.fsencode(f"{command}\n"))
        self._process.stdin.flush()
        line = os.fsdecode(self._process.stdout.readline()).rstrip("\n")
        return [] if line.endswith((" missing", " ambiguous")) else line.split(" ")


@contextmanager
def opened() -> Iterator[Objects]:
    """Yield the objects of the repository that the working directory is in."""
    command = git_process.command("cat-file", "--batch-command")
    pipe = subprocess.PIPE
    null = subprocess.DEVNULL
    env = git_process.environment()
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=null) as process:
        yield Objects(process)


def commits() -> list[Commit]:
    """Return the commits of all branches, tags and other refs, each after its parents.

    Those of DVC's experiments and of git's stash are left out.
    """
    refs = ("--exclude=refs/exps/*", "--exclude=refs/stash", "--all")
    listed = git.output("rev-list", "--topo-order", "--reverse", *FORM, *refs) or ""
    return [_commit(line) for line in listed.split("\n") if line]


def last_commit(*paths: str) -> Commit | None:
    """Return the newest commit that changed one of these files, from HEAD by first parents."""
    line = git.output("rev-list", "-1", "--first-parent", *FORM, "HEAD", "--", *paths)
    return _commit(line) if line else None


def _commit(line: str) -> Commit:
    rev, time, text = line.split(" ", 2)
    author, _, subject = text.partition(SEPARATOR)
    return Commit(rev, int(time) * 1000, author, subject)
