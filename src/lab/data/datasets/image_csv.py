"""Your own images in data/images with a table of their paths and labels.

`collect` packs images and tables as they are into one archive. `read` takes the labels from one
table, and refuses each row that it cannot use.
"""

import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field

from lab import paths
from lab.data import file_tree, image_archive, label_tables, layout, split_names
from lab.data.file_tree import IMAGE_SUFFIXES, FileTree
from lab.data.image_archive import Edge, Labeled, OnBad
from lab.data.label_tables import Row
from lab.data.samples import Splits
from lab.data.split_names import SPLITS
from lab.data.unusable import MAX_LINES, Problems, listed, printable
from retrace.errors import DataError

Text = Annotated[str, Field(min_length=1)]
INTEGER = re.compile(r"-?[0-9]{1,18}")
SETTING = "-S datasets.image_csv"
SPLIT_COLUMNS = {"split", "Split", "subset", "partition"}
SPLIT_VALUES = "should be train, val (or validation) or test"


def collect(folder: Path) -> str:
    """Pack the images and tables of data/images into images.zip in `folder`.

    Returns a summary. Equal files give equal bytes. Raises DataError with one line for each file
    that can't be read; then `folder` is empty.
    """
    tree = file_tree.load(paths.IMAGES, unwrap=False)
    problems: Problems = dict(tree.problems)
    wanted = {path.relative_to(tree.root).as_posix(): path for path in _wanted(tree)}
    for name in [name for name in wanted if not image_archive.is_utf8(name)]:
        problems[wanted.pop(name)] = "its name is not UTF-8"
    n_tables = sum(path.suffix.lower() in label_tables.SUFFIXES for path in wanted.values())
    if not n_tables and not problems:
        suffixes = ", ".join(label_tables.SUFFIXES)
        raise DataError(
            f"{tree.root}: no table of labels ({suffixes}); {tree.root}/README.md explains which"
        )
    image_archive.write(folder, tree.packed(wanted), problems, tree.remedy())
    origin = tree.archive or tree.root
    tables = "table" if n_tables == 1 else "tables"
    return f"{origin}, {len(wanted) - n_tables:,} images, {n_tables} {tables}"


def _wanted(tree: FileTree) -> Iterator[Path]:
    """Yield tables, and files with the suffix of an image or none."""
    suffixes = ("", *IMAGE_SUFFIXES, *label_tables.SUFFIXES)
    for path in tree.files:
        if path not in tree.problems and path.suffix.lower() in suffixes:
            yield path


def read(
    folder: Path,
    *,
    table: Text,
    path: Text,
    label: Text,
    split: str,
    resize: Edge,
    crop: Edge,
    on_bad: OnBad,
) -> Splits:
    """Decode the images that a table lists, of shape (n, 3, crop, crop).

    `table` is a file in data/images, or the name of one in each of its folders train, val
    (validation) and test. `path`, `label` and `split` are names of columns; paths begin at the
    table's folder. Without a split column, the first folders of the paths say the splits if they
    are called so; else all images belong to the training split. Images are decoded as
    `image_archive.read` says. Raises DataError with one line for each row that can't be used.
    """
    labeled = partial(_labeled, table=table, columns=(path, label, *([split] if split else [])))
    return image_archive.read(folder, "image_csv", labeled, resize=resize, crop=crop, on_bad=on_bad)


def _labeled(
    archive: zipfile.ZipFile, names: Sequence[str], *, table: str, columns: Sequence[str]
) -> Labeled:
    """Label each image by the rows of the tables."""
    tables = _tables(names, table)
    listing = _Listing(names, by_folder=tables != [table])
    for name in tables:
        content = archive.read(name)
        shown = printable(str(paths.IMAGES / name))
        _warn_of_split(shown, content, columns)
        for row in label_tables.read(shown, content, columns):
            listing.add(name, row, columns)
    return listing.labeled()


def _warn_of_split(table: str, content: bytes, columns: Sequence[str]) -> None:
    """Print a warning if the table has a column of splits that is not used."""
    unused = set(label_tables.header(table, content)) - set(columns)
    for column in sorted(unused & SPLIT_COLUMNS if len(columns) == 2 else ()):
        remedy = f"{SETTING}.split={column} uses it"
        print(f"warning: {table}: the column {column} is not used; {remedy}", file=sys.stderr)


def _tables(names: Sequence[str], table: str) -> list[str]:
    """Return the table's name in the archive, or that of each split. Raises DataError."""
    if table in names:
        return [table]
    inside = [
        name
        for name in sorted(names)
        if name.count("/") == 1 and name.endswith(f"/{table}") and _split_of_folder(name)
    ]
    if inside:
        return inside
    present = [name for name in sorted(names) if name.lower().endswith(label_tables.SUFFIXES)]
    known = printable(", ".join(present[:MAX_LINES]))
    raise DataError(
        f"{paths.IMAGES / table}: no such table, also in no folder train, val or test; "
        f"{paths.IMAGES} has {known}: choose one with {SETTING}.table=NAME"
    )


def _split(value: str) -> str | None:
    """Return the split that a value of the split column stands for."""
    return split_names.SPLIT_OF.get(split_names.plain(value.strip()))


def _split_of_folder(name: str) -> str:
    """Return the split of an image by its first folder, or nothing."""
    folder, slash, _ = name.partition("/")
    role = split_names.role(folder) if slash else None
    return role.split if role and role.is_certain else ""


class _Listing:
    """The rows of the tables, by image."""

    def __init__(self, names: Sequence[str], *, by_folder: bool) -> None:
        self._by_folder = by_folder
        self._names = {layout.normal(name): name for name in names} | {name: name for name in names}
        self._rows: dict[str, tuple[str, str, str]] = {}  # label, split, where: by image
        self._problems: list[str] = []

    def add(self, table: str, row: Row, columns: Sequence[str]) -> None:
        """Add a row, or note why it can't be used."""
        where = f"{paths.IMAGES / table}: row {row.number}"
        path, label, *splits = row.cells
        label = layout.normal(label.strip())
        name = self._image(table, path)
        split = _split(splits[0]) if splits else "train"
        if not path.strip():
            self._note(where, f"{columns[0]} is empty")
        elif not label:
            self._note(where, f"{columns[1]} is empty, of {path}")
        elif split is None:
            self._note(where, f"{columns[2]} is {splits[0]!r}; {SPLIT_VALUES}")
        elif name is None:
            self._note(where, f"{columns[0]} is {path!r}; {_absent(table, path)}")
        else:
            if not splits:
                split = _split_of_folder(name)
            known = self._rows.setdefault(name, (label, split, where))
            if known[0] != label:
                self._note(where, f"{path!r} has label {label!r}, but {known[0]!r} in {known[2]}")
            elif known[1] != split:
                self._note(where, f"{path!r} has split {split!r}, but {known[1]!r} in {known[2]}")

    def _image(self, table: str, path: str) -> str | None:
        """Return the name of an image in the archive, or None if there is none."""
        folder = PurePosixPath(table).parent
        for written in (path, path.strip(), path.strip().replace("\\", "/")):
            name = _joined(folder, written)
            if name is not None and name != table:
                found_name = self._names.get(name) or self._names.get(layout.normal(name))
                if found_name:
                    return found_name
        return None

    def _note(self, where: str, problem: str) -> None:
        self._problems.append(printable(f"{where}: {problem}"))

    def labeled(self) -> Labeled:
        """Return the samples. Raises DataError with one line for each problem."""
        if self._problems:
            raise DataError(_message(self._problems))
        in_folders = self._by_folder or any(split for _, split, _ in self._rows.values())
        splits: dict[str, list[str]] = {split: [] for split in SPLITS}
        for name, (_, split, where) in sorted(self._rows.items()):
            if in_folders and not split:
                self._note(where, f"{name!r} is in no folder train, val (validation) or test")
            else:
                splits[split or "train"].append(name)
        classes = _ordered({label for label, _, _ in self._rows.values()})
        if not splits["train"] and not self._problems:
            self._problems.append(f"{paths.IMAGES}: no image of the split train is listed")
        elif len(classes) < 2 and not self._problems:
            self._problems.append(f"{paths.IMAGES}: one class, {classes[0]}; needs two or more")
        if self._problems:
            raise DataError(_message(self._problems))
        indices = {name: index for index, name in enumerate(classes)}
        labels = {name: indices[label] for name, (label, _, _) in self._rows.items()}
        present = {split: own for split, own in splits.items() if own}
        return Labeled(present, labels, tuple(classes))


def _joined(folder: PurePosixPath, path: str) -> str | None:
    """Return a path relative to data/images, or None if it leads out of it."""
    parts = list(folder.parts)
    if path.startswith("/"):
        return None
    for part in path.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _absent(table: str, path: str) -> str:
    """Return why there is no image with this path."""
    folder = paths.IMAGES / PurePosixPath(table).parent
    slashed = path.strip().replace("\\", "/")
    if slashed.startswith("/") or _joined(PurePosixPath(table).parent, slashed) is None:
        return f"should be a path from {folder}, inside {paths.IMAGES}"
    if slashed.startswith(f"{paths.IMAGES}/"):
        return f"should begin at the table's folder, without {folder}/"
    return f"no such image in {folder} ({', '.join(IMAGE_SUFFIXES)} or without suffix)"


def _ordered(labels: set[str]) -> list[str]:
    """Return the class names in order: of integers by value, else as text."""
    are_integers = all(INTEGER.fullmatch(label) for label in labels)
    return sorted(labels, key=(lambda label: (int(label), label)) if are_integers else None)


def _message(problems: Sequence[str]) -> str:
    """List the problems, one per line; a single one is the whole message."""
    if len(problems) == 1:
        return problems[0]
    return f"{paths.IMAGES}: {len(problems):,} rows to fix or remove:{listed(problems)}"
