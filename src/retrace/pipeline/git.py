"""Call git: commits and their files, uncommitted changes, DVC's experiment refs.

Plumbing commands are used where git has them. SETTINGS override a user's configuration that would
change what the other commands print or do.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from retrace.errors import RetraceError
from retrace.system import files

SETTINGS = (
    f"core.hooksPath={os.devnull}",
    "apply.ignoreWhitespace=no",
    "i18n.logOutputEncoding=UTF-8",
    "log.follow=false",
    "log.showSignature=false",
)
RECENT_NS = 60 * 10**9
WRITTEN_BY_DVC = ("dvc.lock", ".gitignore")  # while the stages run
EXPERIMENT = re.compile(r"(\w+) (\d+) refs/exps/(\w{2})/(\w{38})/(.+)")


@dataclass(frozen=True)
class ExperimentRef:
    """A DVC experiment: its name, its baseline, its own commit and that commit's time.

    The time is in milliseconds since 1970.
    """

    name: str
    baseline: str
    rev: str
    time: int


def run(
    *command: str,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
) -> bytes:
    """Run git and return what it printed. Raises RetraceError with git's message."""
    ended = _run(command, folder, env, stdin)
    if ended.returncode:
        message = " ".join(ended.stderr.decode(errors="replace").split())
        raise RetraceError(f"git {command[0]} failed with exit code {ended.returncode}: {message}")
    return ended.stdout


def output(*command: str) -> str | None:
    """Return what git printed, stripped; None if it failed, for example outside a repository."""
    printed = raw_output(*command)
    return None if printed is None else printed.decode(errors="replace").strip()


def raw_output(*command: str, env: Mapping[str, str] | None = None) -> bytes | None:
    """Return the bytes that git printed; None if it failed."""
    ended = _run(command, None, env)
    return None if ended.returncode else ended.stdout


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
    searched = ("log", "--all", f"-S{text}", "--no-textconv", "--format=%H", "--", str(file))
    return (output(*searched) or "").split()


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


def uncommitted_patch(root: Path, outs: Collection[str], new: Collection[str]) -> bytes:
    """Return how the work tree differs from the last commit, as a patch for `git apply`.

    It covers all files that git tracks, without the outputs `outs` and what DVC writes, and the
    files that git does not track yet if they match `new`, pathspecs relative to `root`. The patch
    is bytes, because a source file may contain any bytes.
    """
    without = [f":(exclude,literal){path}" for path in outs]
    without += [f":(top,exclude,glob)**/{name}" for name in WRITTEN_BY_DVC]
    at = ("-C", str(root))
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"GIT_INDEX_FILE": f"{folder}/index"}  # leaves the user's index alone
        index = output(*at, "rev-parse", "--path-format=absolute", "--git-path", "index")
        if index and Path(index).exists():
            _copy_index(Path(index), Path(folder) / "index")
        elif raw_output(*at, "read-tree", "HEAD", env=env) is None:
            return b""
        raw_output(*at, "add", "--update", "--", ":/", *without, env=env)
        untracked = ("ls-files", "-z", "--others", "--exclude-standard", "--", *new, *without)
        names = (raw_output(*at, *untracked, env=env) if new else None) or b""
        if names:
            add = ("--literal-pathspecs", "add", "--pathspec-from-file=-", "--pathspec-file-nul")
            run(*at, *add, env=env, stdin=names)
        compare = ("diff-index", "--cached", "--patch", "--binary", "HEAD", "--", ":/", *without)
        return raw_output(*at, *compare, env=env) or b""


def _copy_index(index: Path, copy: Path) -> None:
    """Copy git's index, which knows which files have not changed.

    It knows them by size and time in seconds. DVC changes parameters, and then writes an index with
    an earlier time of that file. The copy is older, so that git compares the contents of all files
    that have changed recently.
    """
    shutil.copyfile(index, copy)
    before_ns = index.stat().st_mtime_ns - RECENT_NS
    os.utime(copy, ns=(before_ns, before_ns))


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
    located = _run(("rev-parse", "--show-prefix", "--git-path", "info/exclude"), folder, None)
    if located.returncode:
        return
    prefix, path = os.fsdecode(located.stdout).split("\n")[:2]
    examples = {pattern.replace("*", "").replace("/", "/x"): pattern for pattern in patterns}
    ignored = _run(("check-ignore", "--", *examples), folder, None).stdout.decode()
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


def init_sharing(folder: Path, origin: Path, env: Mapping[str, str] | None = None) -> None:
    """Make `folder` a repository without commits that has all objects of the repository `origin`.

    It is not a clone: a clone of a shallow repository, as in CI, would lack the commits of DVC's
    experiments.
    """
    run("init", "--quiet", folder=folder, env=env)
    where = ("rev-parse", "--path-format=absolute", "--git-path", "objects")
    objects = run(*where, folder=origin, env=env)
    (folder / ".git/objects/info/alternates").write_bytes(objects)


def check_out(
    folder: Path, commit: str, patch: bytes = b"", env: Mapping[str, str] | None = None
) -> None:
    """Make `folder` have a commit with a patch applied, and nothing else."""
    run("checkout", "--quiet", "--force", "--detach", commit, folder=folder, env=env)
    run("clean", "-ffdxq", folder=folder, env=env)
    if patch:
        run("apply", "--whitespace=nowarn", "-", folder=folder, env=env, stdin=patch)


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


def _run(
    command: tuple[str, ...],
    folder: Path | None,
    env: Mapping[str, str] | None,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[bytes]:
    options = [word for setting in SETTINGS for word in ("-c", setting)]
    return subprocess.run(
        ["git", *options, *command],
        cwd=folder,
        env=env,
        input=stdin,
        capture_output=True,
        check=False,
    )
