"""Find the files that declare a pipeline: every dvc.yaml and every .dvc file, as DVC finds them."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from retrace.errors import RetraceError
from retrace.pipeline import git

PIPELINE = "dvc.yaml"
INTERNAL = (".dvc", ".git", ".hg")  # DVC looks into none of these folders
IGNORE = ".dvcignore"
MODULES = ".gitmodules"
PATTERNS = (
    f":(glob)**/{PIPELINE}",
    "*.dvc",
    f":(glob)**/{IGNORE}",
    ":(glob)**/.dvc/config",
    MODULES,
)
IGNORED = re.compile(r"/[^*?\[\]\\\s]+")  # a line of a .dvcignore: a folder, from the root
NO_SCM = re.compile(r"^\s*no_scm\s*=\s*true", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Files:
    """The files that declare a pipeline, by their paths relative to its root, sorted."""

    pipelines: tuple[str, ...] = ()  # dvc.yaml, sub/dvc.yaml
    sources: tuple[str, ...] = ()  # data/raw.csv.dvc
    ignores: tuple[str, ...] = ()  # .dvcignore
    repositories: tuple[str, ...] = ()  # folders with a .dvc/ of their own, which DVC skips


def find(root: Path) -> Files:
    """Find the files below `root`, without those that git ignores.

    Those in folders that the root's .dvcignore names by their paths are left out too.
    """
    ignored = _ignored(root)
    listed = {path for path in _listed(root) if not path.startswith(ignored)}
    paths = sorted(listed, key=lambda path: (path.count("/"), path))
    named = {path: PurePosixPath(path) for path in paths}
    configs = [path for path in named.values() if path.parts[-2:] == (".dvc", "config")]
    outside = [path for path, name in named.items() if not set(INTERNAL) & set(name.parts[:-1])]
    return Files(
        pipelines=tuple(path for path in outside if named[path].name == PIPELINE),
        sources=tuple(path for path in outside if path.endswith(".dvc")),
        ignores=tuple(path for path in outside if named[path].name == IGNORE),
        repositories=tuple(str(path.parents[1]) for path in configs if len(path.parts) > 2),
    )


def _ignored(root: Path) -> tuple[str, ...]:
    """Return the folders that the root's .dvcignore names by their paths, such as `/examples`.

    There may be more: its other patterns are left to DVC.
    """
    try:
        lines = (root / IGNORE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    if any(line.startswith("!") for line in lines):
        return ()
    folders = (line.strip().strip("/") for line in lines if IGNORED.fullmatch(line.strip()))
    return tuple(f"{folder}/" for folder in folders)


def _listed(root: Path) -> Iterable[str]:
    """Return the paths that match PATTERNS, among others."""
    config = root / ".dvc" / "config"
    if config.exists() and NO_SCM.search(config.read_text(encoding="utf-8", errors="replace")):
        return _walked(root)
    if not _is_in_git(root):  # an exported commit
        return _walked(root)
    try:
        return list(_unignored(root))
    except RetraceError:  # no git repository, or git refuses it
        return _walked(root)


def _is_in_git(root: Path) -> bool:
    """Return whether a folder may be in a git repository, without asking git, which takes time."""
    absolute = root.absolute()
    folders = (absolute, *absolute.parents)
    return any((each / ".git").exists() for each in folders)


def _unignored(root: Path) -> Iterator[str]:
    """Yield the files that no pattern of git ignores, even if git tracks them, like DVC.

    For this, git is given no index: to it, all files are new. It does not look into submodules.
    """
    without_index = {"GIT_INDEX_FILE": str(root / ".dvc" / "tmp" / "no-index")}
    listing = git.run(
        *("ls-files", "-z", "--others", "--exclude-standard", "--", *PATTERNS),
        folder=root,
        env=without_index,
    )
    for name in filter(None, listing.split(b"\0")):
        path = os.fsdecode(name)
        if path == MODULES:
            for module in _modules(root):
                yield from (f"{module}/{inside}" for inside in _unignored(root / module))
        else:
            yield path


def _modules(root: Path) -> list[str]:
    """Return the folders of git's submodules that are checked out."""
    text = (root / MODULES).read_text(encoding="utf-8", errors="replace")
    paths = re.findall(r"^\s*path\s*=\s*(.+?)\s*$", text, re.MULTILINE)
    return [path for path in paths if (root / path / ".git").exists()]


def _walked(root: Path) -> Iterator[str]:
    """Yield all files, also hidden ones, except those in DVC's and git's own folders."""
    for folder, folders, names in os.walk(root):
        if ".dvc" in folders and Path(folder) != root:
            yield (Path(folder).relative_to(root) / ".dvc" / "config").as_posix()
        folders[:] = [name for name in folders if name not in INTERNAL]
        for name in names:
            if name in (PIPELINE, IGNORE) or name.endswith(".dvc"):
                yield (Path(folder) / name).relative_to(root).as_posix()
