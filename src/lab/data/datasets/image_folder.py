"""Your own images in data/images: one folder per class, optionally below train, val and test.

`collect` packs the files as they are into one archive. `read` decodes all of them, so that every
unusable image is reported, with its path and the reason, before anything is trained.
"""

import hashlib
import os
import re
import shutil
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from lab import paths
from lab.data import decoding, layout, memmap
from lab.data.layout import SPLITS, SUFFIXES, Problems
from lab.data.samples import Samples, Skipped, Splits
from retrace.errors import DataError, ParamsError
from retrace.system import files, memory

ARCHIVE = "images.zip"
MAX_LINES = 20  # of a message
MAX_THREADS = 8
DECODING_BYTES = 1 << 31  # of memory, to decode one image
WINDOW = 1024  # images
DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")  # to which DVC may link a file

Edge = Annotated[int, Field(ge=1, le=2048)]  # pixels


class Listing(NamedTuple):
    """The content of data/images without hidden files and the README."""

    images: dict[str, Path]  # by the path in data/images: class/... or split/class/...
    others: list[Path]  # files without an image's suffix
    problems: Problems


def collect(folder: Path) -> str:
    """Pack data/images into images.zip in `folder`, and return a summary.

    Equal images give equal bytes. Raises DataError with one line for each file that can't be read
    or has no class; then `folder` is empty.
    """
    shutil.rmtree(folder, ignore_errors=True)
    images, others, problems = _list(paths.IMAGES)
    with (
        files.atomic(folder / ARCHIVE) as unfinished,
        zipfile.ZipFile(unfinished, "w") as archive,
    ):
        for name, path in sorted(images.items()):
            try:
                content = _content(path)
            except DataError as error:
                problems[path] = str(error)
                continue
            if not problems:
                archive.writestr(_member(name), content)
        if problems:
            raise DataError(_message("to fix or remove", problems))
    n_classes = len({layout.split_and_class(name)[1] for name in images})
    summary = f"{paths.IMAGES}, {len(images):,} images of {n_classes} classes"
    left_out = f"left out: {printable(layout.by_suffix(others))}"
    if remedies := layout.remedies(others):
        print(f"warning: {paths.IMAGES}: {left_out}; {remedies}", file=sys.stderr)
    return f"{summary}; {left_out}" if others else summary


def read(folder: Path, *, resize: Edge, crop: Edge, on_bad: Literal["fail", "skip"]) -> Splits:
    """Decode the samples of each split, images of shape (n, 3, crop, crop).

    Without split folders, all images belong to the training split. The shorter edge of an image is
    resized to `resize` pixels, then the center is cropped. Images that can't be decoded are
    skipped, or raise DataError with one line for each.
    """
    if crop > resize:
        limit = f"should be at most resize, which is {resize}"
        raise ParamsError(f"{paths.PARAMS}: datasets.image_folder.crop is {crop}; {limit}")
    try:
        with zipfile.ZipFile(folder / ARCHIVE) as archive:
            return _decode_all(archive, resize, crop, skip=on_bad == "skip")
    except (OSError, EOFError, LookupError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        message = f"{folder / ARCHIVE}: {error}; `dvc repro download` writes it"
        raise DataError(message) from None


def _decode_all(archive: zipfile.ZipFile, resize: int, crop: int, *, skip: bool) -> Splits:
    names = [_name(info) for info in archive.infolist()]
    classes = layout.class_names(names)
    splits: dict[str, Samples] = {}
    skipped: list[Skipped] = []
    for split in SPLITS:
        own = [name for name in names if layout.split_and_class(name)[0] == split]
        if own:
            splits[split] = _decode(archive, _alternating(own), classes, resize, crop, skipped)
    if skipped and not skip:
        problems = {Path(image.file): image.reason for image in skipped}
        remedy = "to fix or remove, or to skip with -S datasets.image_folder.on_bad=skip"
        raise DataError(_message(remedy, problems))
    for split, samples in splits.items():
        missing = np.setdiff1d(np.arange(len(classes)), samples.labels)
        if len(missing):
            name = printable(samples.class_names[missing[0]])
            raise DataError(f"{paths.IMAGES}: no image of class {name} can be used for {split}")
    return Splits(splits["train"], splits.get("val"), splits.get("test"), tuple(skipped))


def _decode(
    archive: zipfile.ZipFile,
    names: Sequence[str],
    classes: Mapping[str, str],
    resize: int,
    crop: int,
    skipped: list[Skipped],
) -> Samples:
    """Decode images in threads. Those that can't be decoded are added to `skipped`."""
    images = memmap.empty((len(names), 3, crop, crop), np.dtype(np.uint8))

    def decode(number: int) -> Skipped | None:
        """Decode one image into its row of `images`; return it if it can't be decoded."""
        content = archive.read(names[number])
        try:
            images[number] = decoding.pixels(content, images.shape[1:], resize)
        except DataError as error:
            digest = hashlib.sha256(content).hexdigest()
            return Skipped(str(paths.IMAGES / names[number]), digest, str(error))
        return None

    n_threads = min(os.cpu_count() or 1, MAX_THREADS, max(1, memory.free() // DECODING_BYTES))
    failures: list[Skipped | None] = []
    # Odd metadata causes warnings. A window at a time, so that few tasks wait in memory.
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(n_threads) as pool:
        for first in range(0, len(names), WINDOW):
            window = range(first, min(first + WINDOW, len(names)))
            failures += pool.map(decode, window)
    skipped += [failure for failure in failures if failure]
    kept = np.flatnonzero([failure is None for failure in failures])
    labels_by_name = {name: label for label, name in enumerate(classes)}
    labels = [labels_by_name[layout.split_and_class(name)[1]] for name in names]
    image_paths = np.array([str(paths.IMAGES / name) for name in names], dtype=object)
    samples = Samples(
        images, np.array(labels, np.int64), tuple(classes.values()), image_paths, resize
    )
    return samples.take(kept)


def _alternating(names: Sequence[str]) -> list[str]:
    """Return the first image of each class, then the second of each, and so on.

    Figures show the first samples of a split.
    """
    positions: dict[str, int] = {}
    counts = Counter[str]()
    for name in names:
        _, class_name = layout.split_and_class(name)
        counts[class_name] += 1
        positions[name] = counts[class_name]
    return sorted(names, key=positions.__getitem__)


def _name(info: zipfile.ZipInfo) -> str:
    """Return a member's name. Raises ValueError if `collect` did not write it, as in a zip bomb."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > decoding.MAX_BYTES:
        raise ValueError(f"{printable(info.filename)}: not as the download stage packs it")
    return info.filename


def _list(root: Path) -> Listing:
    """List the images below `root`. Raises DataError if there is nothing."""
    has_splits = any(layout.folders_in(root / split) for split in SPLITS)
    listing = Listing({}, [], {})
    for path in layout.files_below(root):
        parts = path.relative_to(root).parts
        name = "/".join(parts)
        if path.is_dir():
            listing.problems[path] = "a symbolic link to a folder; put the folder itself here"
        elif path.suffix.lower() not in SUFFIXES:
            listing.others.extend([] if name == "README.md" else [path])
        elif len(parts) < (3 if has_splits else 2):
            if not layout.is_unlabeled(path, root):
                listing.problems[path] = "not in a class folder"
        elif not _is_utf8(name):
            listing.problems[path] = "its name is not UTF-8"
        else:
            listing.images[name] = path
    of_folders = layout.problems(root, listing.images, listing.others)
    for path, problem in of_folders.items():
        listing.problems.setdefault(path, problem)
    if not listing.images and not listing.problems:
        reason = "; ".join(["no images", *layout.why_none(listing.others)])
        hint = f"{root}/README.md explains the folder layout, and which images queued and --temp "
        raise DataError(f"{root}: {printable(reason)}; {hint}experiments can see")
    return listing


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(path: Path) -> bytes:
    """Read an image's file. Raises DataError if it is a symbolic link out of data/images."""
    content = decoding.content(path)
    target = path.resolve()
    is_inside = target.is_relative_to(paths.IMAGES.resolve())
    if not is_inside and not DVC_CACHE.search(target.as_posix()):
        raise DataError(f"a symbolic link to a file outside of {paths.IMAGES}, {target}")
    return content


def _member(name: str) -> zipfile.ZipInfo:
    """Return a member of the archive without anything that differs between machines."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # Unix
    info.external_attr = 0o644 << 16
    return info


def _message(remedy: str, problems: Problems) -> str:
    """List the problems, one per line, up to MAX_LINES."""
    lines = [f"{printable(str(path))}: {printable(why)}" for path, why in sorted(problems.items())]
    text = "".join(f"\n  {line}" for line in lines[:MAX_LINES])
    if len(lines) > MAX_LINES:
        text += f"\n  and {len(lines) - MAX_LINES:,} more"
    unusable = "unusable file or folder" if len(lines) == 1 else "unusable files or folders"
    return f"{paths.IMAGES}: {len(lines):,} {unusable} {remedy}:{text}"


def printable(text: str) -> str:
    """Return `text` on one line, with other characters escaped."""
    letters = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return "".join(letters)
