"""Make a patch of what the work tree has and the last commit has not, byte for byte."""

import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath

from retrace.pipeline.git_process import is_damaged, output, run

RECENT_NS = 60 * 10**9
WRITTEN_BY_DVC = ("dvc.lock", ".gitignore")  # while the stages run
WRITTEN_BY_US = (".retrace/", "mlflow.db*", "mlruns/")  # by tracking, in the folder with .dvc/
CONVERTED = {"core.autocrlf true", "core.eol crlf"}
FLAGS = ("--no-assume-unchanged", "--no-skip-worktree")
SUBMODULE = b":160000"
PATCH = (
    *("diff-index", "--cached", "--patch", "--binary", "--full-index", "--no-color"),
    *("--no-ext-diff", "--no-textconv", "--no-renames", "--no-relative", "--unified=3"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--ignore-submodules=none"),
)


def untracked_files(
    root: Path, new: Iterable[str], outs: Iterable[str]
) -> tuple[set[str], set[str]]:
    """Return the files that git does not track and that match the pathspecs `new`.

    The first set has those that git would show, the second those that only the user's own ignore
    files hide. Outputs, virtual environments and what tracking writes are in neither.
    """
    wanted = ("--", *new, *_without(outs))
    own = [f"--exclude={pattern}" for pattern in WRITTEN_BY_US]
    listing = ("-C", str(root), "ls-files", "-z", "--others")
    shown = _names(run(*listing, "--exclude-standard", *wanted), root)
    seen = _names(run(*listing, "--exclude-per-directory=.gitignore", *own, *wanted), root)
    return shown, seen - shown


def uncommitted(root: Path, outs: Collection[str], new: Collection[str]) -> bytes:
    """Return how the work tree differs from the last commit, as a patch for `git apply`.

    It covers all files that git tracks, without the outputs `outs` and what DVC writes, and the
    files `new`. Before the first commit, it has all files. The patch is bytes, because a source
    file may contain any bytes. Raises RetraceError if git fails.
    """
    at = ("-C", str(root))
    without = _without(outs)
    top = _top(root)
    with tempfile.TemporaryDirectory() as folder:
        env = {"GIT_INDEX_FILE": f"{folder}/index"}  # leaves the user's index alone
        base = output(*at, "rev-parse", "--verify", "--quiet", "HEAD")
        base = base or run("hash-object", "-t", "tree", "--stdin", folder=top).decode().strip()
        _fill_index(top, base, env)
        run(*at, "add", "--update", "--", ":/", *without, env=env)
        if new:
            add = ("--literal-pathspecs", "add", "--force", "--pathspec-from-file=-")
            run(*at, *add, "--pathspec-file-nul", env=env, stdin=_joined(map(os.fsencode, new)))
        compared = (base, "--", ":/", *without)
        changed = run(*at, "diff-index", "--cached", "--no-renames", "-z", *compared, env=env)
        if not changed:
            return b""
        _keep_line_ends(top, changed, env)
        return run(*at, *PATCH, *compared, env=env)


def changed_submodules(root: Path) -> list[str]:
    """Return the submodules in which files differ from their commit; a patch lacks these changes.

    Paths are relative to git's top folder.
    """
    top = _top(root)
    if not (top / ".gitmodules").exists():
        return []
    changed = run("diff-files", "-z", "--ignore-submodules=untracked", folder=top).split(b"\0")
    modes = zip(changed[::2], changed[1::2], strict=False)
    modules = [os.fsdecode(name) for mode, name in modes if mode.startswith(SUBMODULE)]
    status = ("status", "--porcelain", "--untracked-files=no")
    return [name for name in modules if run(*status, folder=top / name)]


@cache
def _top(root: Path) -> Path:
    """Return git's top folder above `root`."""
    located = run("-C", str(root), "rev-parse", "--show-toplevel")
    return Path(os.fsdecode(located).rstrip("\n"))


def _fill_index(top: Path, base: str, env: Mapping[str, str]) -> None:
    """Copy git's index, which knows which files have not changed, so that few are read.

    Git hides changes of files with certain flags; the copy has none. If git converts line ends in
    the work tree, the index says nothing about bytes; then all files are read. So they are if the
    index is damaged.
    """
    located = run("rev-parse", "--path-format=absolute", "--git-path", "index", folder=top)
    index = Path(os.fsdecode(located).rstrip("\n"))
    config = output("-C", str(top), "config", "--get-regexp", r"^core\.(autocrlf|eol)$") or ""
    is_converted = bool(CONVERTED & set(config.lower().splitlines()))
    if not index.exists() or is_converted or is_damaged(index):
        run("read-tree", base, folder=top, env=env)
        return
    _copy_index(index, Path(env["GIT_INDEX_FILE"]))
    lines = run("ls-files", "-v", "-z", folder=top, env=env).split(b"\0")
    hidden = [line[2:] for line in lines if line[:1].islower() or line[:1] == b"S"]
    present = [name for name in hidden if os.path.lexists(top / os.fsdecode(name))]
    for flag in FLAGS if present else ():
        run("update-index", flag, "-z", "--stdin", folder=top, env=env, stdin=_joined(present))


def _copy_index(index: Path, copy: Path) -> None:
    """Copy git's index so that git compares the contents of all files that changed recently.

    It knows files by size and time in seconds. DVC changes parameters, and then writes an index
    with an earlier time of that file. So the copy is older.
    """
    shutil.copyfile(index, copy)
    before_ns = index.stat().st_mtime_ns - RECENT_NS
    os.utime(copy, ns=(before_ns, before_ns))


def _keep_line_ends(top: Path, changed: bytes, env: Mapping[str, str]) -> None:
    """Replace what git has added with other line ends by the bytes of the work tree.

    Attributes of the repository, such as `text=auto`, convert them. Files with a filter, such as
    those of Git LFS, stay as the filter made them. `changed` is what `git diff-index` lists.
    """
    fields = changed.split(b"\0")
    modes = {name: line.split()[1] for line, name in zip(fields[::2], fields[1::2], strict=False)}
    regular = {name: mode for name, mode in modes.items() if mode.startswith(b"100")}
    if not regular:
        return
    given = ("check-attr", "--cached", "-z", "--stdin", "filter")
    attributes = run(*given, folder=top, env=env, stdin=_joined(regular)).split(b"\0")
    filtered = {
        name
        for name, value in zip(attributes[::3], attributes[2::3], strict=False)
        if value not in (b"unspecified", b"unset")
    }
    plain = sorted(name for name in regular.keys() - filtered if _is_line(name))
    write = ("hash-object", "-w", "--no-filters", "--stdin-paths")
    blobs = run(*write, folder=top, stdin=b"".join(name + b"\n" for name in plain)).split()
    entries = [
        b"%b %b\t%b" % (regular[name], blob, name) for name, blob in zip(plain, blobs, strict=True)
    ]
    update = ("update-index", "-z", "--index-info")
    run(*update, folder=top, env=env, stdin=_joined(entries))


def _without(outs: Iterable[str]) -> list[str]:
    """Return the pathspecs that exclude outputs and what DVC writes."""
    excluded = [f":(exclude,literal){path}" for path in outs]
    return excluded + [f":(top,exclude,glob)**/{name}" for name in WRITTEN_BY_DVC]


def _is_line(name: bytes) -> bool:
    """Return whether git can read a name from a line."""
    return b"\n" not in name and not name.startswith(b'"')


def _names(listing: bytes, root: Path) -> set[str]:
    """Return the listed files that are in no virtual environment."""
    names = {os.fsdecode(name) for name in listing.split(b"\0") if name}
    names = {name for name in names if not name.endswith("/")}  # a repository of its own
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    environments = {folder for folder in folders if (root / folder / "pyvenv.cfg").exists()}
    return {
        name for name in names if environments.isdisjoint(map(str, PurePosixPath(name).parents))
    }


def _joined(names: Iterable[bytes]) -> bytes:
    return b"\0".join(names)
