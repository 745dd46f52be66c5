"""The files of data/images: of the folder, or of its one archive as if it were unpacked there."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lab.data import archives, decoding
from lab.data.image_archive import Packed
from lab.data.split_names import SPLITS
from lab.data.unusable import Problems
from retrace.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
IMAGE_SUFFIXES += (".jfif", ".jpe", ".tif", ".tiff", ".avif")
JUNK = {  # of operating systems and tools
    "__macosx",
    "__pycache__",
    "@eadir",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
}
LINK = "a symbolic link to a folder; put the folder itself here"
README = "README.md"  # this repository has its own, and many archives have one
DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")  # to which DVC may link a file


@dataclass(frozen=True)
class FileTree:
    """The visible files and folders below `root`.

    `files` are sorted. `folders` has the names of the folders in each folder. `problems` are links
    to folders, and members of the archive that are no plain files. `members` has the name in
    `archive` of each file that is not on disk.
    """

    root: Path
    files: tuple[Path, ...] = ()
    folders: Mapping[Path, set[str]] = field(default_factory=dict)
    problems: Problems = field(default_factory=dict)
    archive: Path | None = None
    members: Mapping[Path, str] = field(default_factory=dict)

    def folders_in(self, path: Path) -> set[str]:
        """Return the names of the folders in a folder; a link has none."""
        return self.folders.get(path, set())

    def packed(self, wanted: Mapping[str, Path]) -> Iterator[Packed]:
        """Yield some of the files by their name, sorted; those of an archive in its order."""
        for name, path in sorted(wanted.items()):
            if path not in self.members:
                yield Packed(name, path, partial(_content, path, self.root))
        archived = {
            self.members[path]: (name, path)
            for name, path in wanted.items()
            if path in self.members
        }
        if self.archive and archived:
            for entry in archives.entries(self.archive):
                if entry.name in archived:
                    yield Packed(*archived.pop(entry.name), entry.content)

    def remedy(self) -> str:
        """Return what to do about unusable files."""
        unpack = f" (first unpack {self.archive} and remove it)" if self.archive else ""
        return f"to fix or remove{unpack}"


def load(root: Path, *, unwrap: bool) -> FileTree:
    """List a folder; if it has one archive and no images, also what is in the archive.

    With `unwrap`, one folder around everything in the archive is left out. Raises DataError if the
    folder or the archive can't be read.
    """
    folders: dict[Path, set[str]] = {}
    files = tuple(_walk(root, folders))
    links = dict.fromkeys(filter(Path.is_dir, files), LINK)
    tree = FileTree(root, files, folders, links)
    inside = [path for path in files if path.parent == root and archives.is_archive(path)]
    if len(inside) != 1 or any(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
        return tree
    return _with_archive(tree, inside[0], unwrap=unwrap)


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the visible files below `folder`, and links to folders, sorted."""
    return _walk(folder, {})


def _walk(folder: Path, folders: dict[Path, set[str]]) -> Iterator[Path]:
    """Yield the files as `files_below` does, and add the names of the folders in each folder."""
    entries = _visible(folder)
    folders[folder] = {path.name for path in entries if path.is_dir()}
    for path in entries:
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, folders)
        else:
            yield path


def _visible(folder: Path) -> list[Path]:
    """List the entries that are neither hidden nor of the operating system, sorted."""
    try:
        return sorted(path for path in folder.iterdir() if not _is_junk(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _with_archive(tree: FileTree, archive: Path, *, unwrap: bool) -> FileTree:
    """Add the visible members of an archive."""
    try:
        _check_inside(archive, tree.root)
    except DataError as error:
        raise DataError(f"{archive}: {error}; put the archive itself there") from None
    entries = list(archives.listing(archive))
    entries = [entry for entry in entries if not any(map(_is_junk, entry.name.split("/")))]
    top = _folder_around([entry.name for entry in entries]) if unwrap else ""
    present = set(tree.files) - {archive}
    problems = dict(tree.problems)
    folders = {path: set(names) for path, names in tree.folders.items()}
    members: dict[Path, str] = {}
    for entry in entries:
        path = tree.root / entry.name.removeprefix(top)
        if path == tree.root / README:
            continue
        if entry.problem:
            problems[path] = f"{entry.problem}, in {archive}"
        elif path in present:
            problems[path] = f"also in {archive}"
        else:
            members[path] = entry.name
        for folder in path.parents[: len(path.relative_to(tree.root).parts) - 1]:
            folders.setdefault(folder.parent, set()).add(folder.name)
    files = tuple(sorted({*present, *members}))
    return replace(
        tree, files=files, folders=folders, problems=problems, archive=archive, members=members
    )


def _folder_around(names: list[str]) -> str:
    """Return `photos/` if all files are in folders in the folder `photos`, and none is a split."""
    tops = Counter(name.split("/", 1)[0] for name in names)
    if len(tops) != 1 or not any(name.count("/") > 1 for name in names):
        return ""
    (top,) = tops
    return "" if top in SPLITS else f"{top}/"


def _content(path: Path, root: Path) -> bytes:
    """Read a file. Raises DataError if it is a symbolic link out of `root`."""
    content = decoding.content(path)
    _check_inside(path, root)
    return content


def _check_inside(path: Path, root: Path) -> None:
    target = path.resolve()
    if not target.is_relative_to(root.resolve()) and not DVC_CACHE.search(target.as_posix()):
        raise DataError(f"a symbolic link to a file outside of {root}, {target}")
