"""Call git: commits and their files, DVC's experiment refs, work trees.

Plumbing commands are used where git has them.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from retrace.pipeline.git_process import completed, output, raw_output, run
from retrace.system import files

IDENTITY = ("user.name", "user.email")
EXPERIMENT = re.compile(r"(\w+) (\d+) refs/exps/(\w{2})/(\w{38,})/(.+)")


@dataclass(frozen=True)
class ExperimentRef:
    """A DVC experiment: its name, its baseline, its own commit and that commit's time.

    The time is in milliseconds since 1970.
    """

    name: str
    baseline: str
    rev: str
    time: int


def head_commit() -> str | None:
    """Return the commit that is checked out.

    A running experiment has no commit of its own yet: DVC makes it after the stages.
    """
    return output("rev-parse", "--verify", "--quiet", "HEAD")


def resolve_commit(name: str) -> str | None:
    """Return the commit with this name: a branch, a tag, the first digits, or such as HEAD~1."""
    return output("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")


def has_commit(commit: str) -> bool:
    """Return whether the repository has a commit, even if it is on no branch."""
    return raw_output("cat-file", "-e", f"{commit}^{{commit}}") is not None


def commit_time(rev: str) -> int:
    """Return when a commit was made, in milliseconds since 1970; 0 if there is no such commit."""
    return int(_format(rev, "%ct") or 0) * 1000


def commit_message(rev: str) -> tuple[str, str]:
    """Return a commit's author date (year-month-day) and the first line of its message."""
    date, _, subject = _format(rev, "%ad %s").partition(" ")
    return date, subject


def last_change(rev: str, *files: Path) -> str | None:
    """Return the newest commit that changed one of `files`, from `rev` back by first parents."""
    return output("rev-list", "-1", "--first-parent", rev, "--", *map(str, files)) or None


def commits_with(text: str, file: Path) -> list[str]:
    """Return the commits of all branches that added or removed `text` in `file`, newest first."""
    options = ("--format=%H", "--no-textconv", "--no-ext-diff", f"-O{os.devnull}")
    return (output("log", "--all", f"-S{text}", *options, "--", str(file)) or "").split()


def read_file(rev: str, file: Path) -> bytes | None:
    """Return the content of a file in a commit; None if the commit does not have it."""
    return raw_output("cat-file", "blob", f"{rev}:./{file}")


def list_files(rev: str) -> dict[str, int]:
    """Return the files of a commit, below the working directory, with their sizes in bytes."""
    listed = raw_output("ls-tree", "-r", "-z", "--format=%(objectsize) %(path)", rev) or b""
    lines = (os.fsdecode(line).partition(" ") for line in listed.split(b"\0") if line)
    return {path: int(size) for size, _, path in lines if size.isdecimal()}


@contextmanager
def export(rev: str, *names: Path | str) -> Iterator[Path]:
    """Yield a temporary folder with those of the files and folders `names` that a commit has."""
    with tempfile.TemporaryDirectory() as folder:
        export_into(Path(folder), rev, *names)
        yield Path(folder)


def export_into(folder: Path, rev: str, *names: Path | str) -> None:
    """Write those of the files and folders `names` that a commit has into a folder."""
    wanted = [str(name) for name in names]
    listed = raw_output("ls-tree", "-z", "--name-only", rev, "--", *wanted) if wanted else b""
    present = [os.fsdecode(name) for name in (listed or b"").split(b"\0") if name]
    # Without names git would archive the whole commit.
    packed = raw_output("archive", rev, "--", *map(literal, present)) if present else None
    if packed:
        files.extract(packed, folder)


def untracked(paths: Iterable[str], root: Path = Path()) -> set[str]:
    """Return those of these files and folders that git does not track, or not all of.

    Paths are relative to `root`. Outside a git repository, there are none.
    """
    at = ("-C", str(root))
    listed = raw_output(*at, "ls-files", "-z")
    if listed is None:
        return set()
    tracked = set(os.fsdecode(listed).split("\0"))
    folders = {str(parent) for file in tracked for parent in PurePosixPath(file).parents}
    return {
        path
        for path in paths
        if path not in tracked
        and (path not in folders or raw_output(*at, "ls-files", "--others", "--", literal(path)))
    }


def literal(path: str) -> str:
    """Return a path as a pathspec in which no character is special."""
    return f":(literal){path}"


def experiments() -> list[ExperimentRef]:
    """Return DVC's experiments in this repository."""
    form = "%(objectname) %(committerdate:unix) %(refname)"
    lines = (output("for-each-ref", f"--format={form}", "refs/exps") or "").splitlines()
    return [
        ExperimentRef(match[5], match[3] + match[4], match[1], int(match[2]) * 1000)
        for match in map(EXPERIMENT.fullmatch, lines)
        if match
    ]


def exclude(folder: Path, *patterns: str) -> None:
    """Let git ignore what matches the patterns in `folder`, by the clone's own `info/exclude`.

    Nothing is written for a pattern that git ignores already, nor outside a git repository.
    """
    located = completed("rev-parse", "--show-prefix", "--git-path", "info/exclude", folder=folder)
    if located.returncode:
        return
    prefix, path = os.fsdecode(located.stdout).split("\n")[:2]
    examples = {pattern.replace("*", "").replace("/", "/x"): pattern for pattern in patterns}
    ignored = completed("check-ignore", "--", *examples, folder=folder).stdout.decode()
    for example in ignored.splitlines():
        del examples[example]
    if examples:
        file = folder / path
        before = file.read_bytes() if file.exists() else b""
        start = "/" + re.sub(r"[\\*?\[\]]", r"\\\g<0>", prefix)
        lines = "".join(f"{start}{pattern}\n" for pattern in examples.values())
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as text:
            text.write(b"\n" * (before != b"" and not before.endswith(b"\n")))
            text.write(os.fsencode(lines))


def inside(folder: Path) -> str:
    """Return the path of a folder in its repository, `.` for the top; `.` outside git too."""
    return (output("-C", str(folder), "rev-parse", "--show-prefix") or "").rstrip("/") or "."


def init_sharing(folder: Path, origin: Path) -> None:
    """Make `folder` a repository without commits that has all objects of the repository `origin`.

    It is not a clone: a clone of a shallow repository, as in CI, would lack the commits of DVC's
    experiments. Of a partial clone, it fetches missing objects from the same remote. It has the
    user's name and email, which DVC needs for an experiment's commit.
    """
    form = run("rev-parse", "--show-object-format", folder=origin).decode().strip()
    run("init", "--quiet", "--template=", f"--object-format={form}", folder=folder)
    where = ("rev-parse", "--path-format=absolute", "--git-path")
    (folder / ".git/objects/info").mkdir(exist_ok=True)
    alternates = folder / ".git/objects/info/alternates"
    alternates.write_bytes(run(*where, "objects", folder=origin))
    shallow = Path(os.fsdecode(run(*where, "shallow", folder=origin)).rstrip("\n"))
    if shallow.exists():
        shutil.copyfile(shallow, folder / ".git/shallow")
    _share_remotes(folder, origin)
    for key in IDENTITY:
        if value := completed("config", key, folder=origin).stdout:
            run("config", key, os.fsdecode(value).rstrip("\n"), folder=folder)


def _share_remotes(folder: Path, origin: Path) -> None:
    """Give `folder` the remotes from which the partial clone `origin` fetches missing objects."""
    promisors = completed("config", "--get-regexp", r"^remote\..*\.promisor$", folder=origin)
    for line in promisors.stdout.decode().splitlines():
        remote = line.partition(" ")[0].removeprefix("remote.").removesuffix(".promisor")
        url = run("remote", "get-url", remote, folder=origin).decode().strip()
        local = origin / url
        run("remote", "add", remote, str(local) if local.exists() else url, folder=folder)
        run("config", f"remote.{remote}.promisor", "true", folder=folder)
        run("config", "extensions.partialClone", remote, folder=folder)
        run("config", "core.repositoryFormatVersion", "1", folder=folder)


def check_out(folder: Path, commit: str, patch: bytes = b"") -> None:
    """Make `folder` have a commit with a patch applied, and nothing else."""
    run("checkout", "--quiet", "--force", "--detach", commit, folder=folder)
    run("clean", "-ffdxq", folder=folder)
    if patch:
        run("apply", "--whitespace=nowarn", "-", folder=folder, stdin=patch)


def fetch_experiment(name: str, source: Path, target: Path) -> str | None:
    """Copy a DVC experiment to another repository; return its commit, or None if there is none."""
    pattern = f"refs/exps/*/*/{name}"
    ref = run("for-each-ref", "--format=%(refname)", pattern, folder=source).decode().strip()
    if not ref:
        return None
    options = ("--quiet", "--no-write-fetch-head", "--no-auto-gc")
    run("fetch", *options, str(source), f"+{ref}:{ref}", folder=target)
    return run("rev-parse", ref, folder=target).decode().strip()


def _format(rev: str, form: str) -> str:
    """Return a commit in git's format `form`; empty if there is no such commit."""
    lines = output("rev-list", "-1", "--date=short", f"--format={form}", rev) or ""
    return lines.partition("\n")[2]  # the first line repeats the commit's hash
