"""Images of any origin as one archive in data/raw, and the labeled samples in it.

`write` packs the files as they are. `read` decodes all of them, so that every unusable image is
reported, with its path and the reason, before anything is trained.
"""

import hashlib
import os
import shutil
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from lab import paths
from lab.data import decoding, memmap, unusable
from lab.data.samples import Samples, Skipped, Splits
from lab.data.unusable import Problems, printable
from retrace.errors import DataError, ParamsError
from retrace.system import files, memory

ARCHIVE = "images.zip"
MAX_THREADS = 8
DECODING_BYTES = 1 << 31  # of memory, to decode one image
WINDOW = 1024  # images

Edge = Annotated[int, Field(ge=1, le=2048)]  # pixels
OnBad = Literal["fail", "skip"]


class Packed(NamedTuple):
    """A file to pack: its name in the archive, its path, and the function that reads it."""

    name: str
    path: Path
    content: Callable[[], bytes]


@dataclass(frozen=True)
class Labeled:
    """The images of an archive that are samples.

    `splits` has the names of the images by split. `labels` are indices of `class_names`, by image.
    """

    splits: Mapping[str, Sequence[str]]
    labels: Mapping[str, int]
    class_names: tuple[str, ...]


def write(folder: Path, packed: Iterable[Packed], problems: Problems, remedy: str) -> None:
    """Write images.zip in `folder`, and no other file.

    Equal files in the same order give equal bytes. Raises DataError with one line for each of
    `problems`, and for each file that can't be read; then `folder` is empty.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with (
        files.atomic(folder / ARCHIVE) as unfinished,
        zipfile.ZipFile(unfinished, "w") as archive,
    ):
        for name, path, read_content in packed:
            try:
                content = read_content()
            except DataError as error:
                problems[path] = str(error)
                continue
            if not problems:
                archive.writestr(_member(name), content)
        if problems:
            raise DataError(unusable.message(paths.IMAGES, remedy, problems))


def read(
    folder: Path,
    dataset: str,
    labeled: Callable[[zipfile.ZipFile, Sequence[str]], Labeled],
    *,
    resize: int,
    crop: int,
    on_bad: OnBad,
) -> Splits:
    """Decode the samples of each split, images of shape (n, 3, crop, crop).

    `labeled` gets the archive and the names of its members. The shorter edge of an image is
    resized to `resize` pixels, then the center is cropped. Images that can't be decoded are
    skipped, or raise DataError with one line for each.
    """
    if crop > resize:
        limit = f"should be at most resize, which is {resize}"
        raise ParamsError(f"{paths.PARAMS}: datasets.{dataset}.crop is {crop}; {limit}")
    skipped: list[Skipped] = []
    try:
        with zipfile.ZipFile(folder / ARCHIVE) as archive:
            samples = labeled(archive, [_name(info) for info in archive.infolist()])
            splits = {
                split: _decode(archive, names, samples, resize, crop, skipped)
                for split, names in samples.splits.items()
            }
    except (OSError, EOFError, LookupError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        message = f"{folder / ARCHIVE}: {error}; `dvc repro download` writes it"
        raise DataError(message) from None
    if skipped and on_bad == "fail":
        problems = {Path(image.file): image.reason for image in skipped}
        remedy = f"to fix or remove, or to skip with -S datasets.{dataset}.on_bad=skip"
        raise DataError(unusable.message(paths.IMAGES, remedy, problems))
    _check_classes(splits)
    return Splits(splits["train"], splits.get("val"), splits.get("test"), tuple(skipped))


def is_utf8(name: str) -> bool:
    """Return whether a file's name can be that of a member."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_classes(splits: Mapping[str, Samples]) -> None:
    """Raise DataError if a split lacks a class."""
    for split, samples in splits.items():
        missing = np.setdiff1d(np.arange(len(samples.class_names)), samples.labels)
        if len(missing):
            name = printable(samples.class_names[missing[0]])
            raise DataError(f"{paths.IMAGES}: no image of class {name} can be used for {split}")


def _decode(
    archive: zipfile.ZipFile,
    names: Sequence[str],
    labeled: Labeled,
    resize: int,
    crop: int,
    skipped: list[Skipped],
) -> Samples:
    """Decode images in threads. Those that can't be decoded are added to `skipped`."""
    names = _alternating(names, labeled.labels)
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
    labels = np.array([labeled.labels[name] for name in names], np.int64)
    image_paths = np.array([str(paths.IMAGES / name) for name in names], dtype=object)
    return Samples(images, labels, labeled.class_names, image_paths, resize).take(kept)


def _alternating(names: Sequence[str], labels: Mapping[str, int]) -> list[str]:
    """Return the first image of each class, then the second of each, and so on.

    Figures show the first samples of a split.
    """
    positions: dict[str, int] = {}
    counts = Counter[int]()
    for name in names:
        counts[labels[name]] += 1
        positions[name] = counts[labels[name]]
    return sorted(names, key=positions.__getitem__)


def _name(info: zipfile.ZipInfo) -> str:
    """Return a member's name. Raises ValueError if `write` did not write it, as in a zip bomb."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > decoding.MAX_BYTES:
        raise ValueError(f"{printable(info.filename)}: not as the download stage packs it")
    return info.filename


def _member(name: str) -> zipfile.ZipInfo:
    """Return a member of the archive without anything that differs between machines."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # Unix
    info.external_attr = 0o644 << 16
    return info
