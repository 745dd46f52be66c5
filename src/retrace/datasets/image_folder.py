"""Your own images: a folder for each class in data/images, inside train, val and test or not.

Collecting packs the files unchanged into one archive. Reading decodes every image completely, in
parallel, so that files that cannot be used are reported, with path and reason, before training.
"""

import hashlib
import os
import re
import shutil
import warnings
import zipfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from retrace import decoding, memory, paths
from retrace.errors import DataError, ParamsError
from retrace.samples import Samples, Skipped, Splits

SPLITS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
ARCHIVE = "images.zip"
MOST_LINES = 20  # of an error message
MOST_AT_ONCE = 8  # images being decoded
DECODING = 1 << 31  # bytes that decoding an image may take
DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")  # a link of DVC's

Edge = Annotated[int, Field(ge=1, le=2048)]  # pixels
Faults = dict[Path, str]  # the reason why each file cannot be used


class Listing(NamedTuple):
    """The content of data/images, without hidden files and the README."""

    images: dict[str, Path]  # by path in data/images: class/... or split/class/...
    others: list[Path]  # files without an image's suffix
    faults: Faults


def collect(folder: Path) -> str:
    """Pack all images into images.zip, the only file in `folder`, and return what was packed.

    The same images give the same bytes. Raises DataError, with a line for each fault, if a file
    cannot be read or has no class; then `folder` is empty.
    """
    shutil.rmtree(folder, ignore_errors=True)
    images, others, faults = _list_images(paths.IMAGES)
    with paths.atomic(folder / ARCHIVE) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name, path in sorted(images.items()):
            try:
                content = _content(path)
            except DataError as error:
                faults[path] = str(error)
                continue
            if not faults:
                archive.writestr(_member(name), content)
        if faults:
            raise DataError(_message("to fix or remove", faults))
    n_classes = len({_split_and_class(name)[1] for name in images})
    suffixes = Counter(path.suffix.lower() or "without suffix" for path in others)
    left_out = ", ".join(f"{count} {shown(suffix)}" for suffix, count in sorted(suffixes.items()))
    return f"{paths.IMAGES}, {len(images):,} images of {n_classes} classes" + (left_out and f"; left out: {left_out}")


def read(folder: Path, *, resize: Edge, crop: Edge, on_bad: Literal["fail", "skip"]) -> Splits:
    """Read the images (n, 3, crop, crop) of each split; without splits all are for training.

    An image's shorter edge is resized to `resize` pixels, and a square of `crop` pixels is cut from
    its centre. Images that cannot be decoded are skipped, or raise DataError with a line for each.
    """
    if crop > resize:
        allowed = f"should be at most resize, which is {resize}"
        raise ParamsError(f"{paths.PARAMS}: datasets.image_folder.crop is {crop}; {allowed}")
    try:
        with zipfile.ZipFile(folder / ARCHIVE) as archive:
            return _read(archive, resize, crop, skip=on_bad == "skip")
    except (OSError, EOFError, LookupError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise DataError(f"{folder / ARCHIVE}: {error}; `dvc repro download` writes it") from None


def _read(archive: zipfile.ZipFile, resize: int, crop: int, *, skip: bool) -> Splits:
    names = [_check(info) for info in archive.infolist()]
    classes = tuple(sorted({_split_and_class(name)[1] for name in names}))
    splits = {}
    skipped = list[Skipped]()
    for split in SPLITS:
        own = _interleave([name for name in names if _split_and_class(name)[0] == split])
        if own:
            splits[split] = _decode(archive, own, classes, resize, crop, skipped)
    if skipped and not skip:
        faults = {Path(bad.file): bad.reason for bad in skipped}
        raise DataError(_message("to fix or remove, or else -S datasets.image_folder.on_bad=skip", faults))
    for split, samples in splits.items():
        missing = np.setdiff1d(np.arange(len(classes)), samples.labels)
        if len(missing):
            name = shown(classes[missing[0]])
            raise DataError(f"{paths.IMAGES}: no image of class {name} can be used for {split}")
    return Splits(splits["train"], splits.get("val"), splits.get("test"), tuple(skipped))


def _decode(
    archive: zipfile.ZipFile,
    names: Sequence[str],
    classes: tuple[str, ...],
    resize: int,
    crop: int,
    skipped: list[Skipped],
) -> Samples:
    """Decode the images called `names`; those that fail are added to `skipped`."""
    images, left = memory.array((len(names), 3, crop, crop), np.dtype(np.uint8)), iter(range(len(names)))

    def decode() -> dict[int, Skipped]:
        bad = {}
        for number in left:  # shared by the threads; a task for each image takes longer
            content = archive.read(names[number])
            try:
                images[number] = decoding.pixels(content, images.shape[1:], resize)
            except DataError as error:
                file, digest = str(paths.IMAGES / names[number]), hashlib.sha256(content).hexdigest()
                bad[number] = Skipped(file, digest, str(error))
        return bad

    at_once = min(os.cpu_count() or 1, MOST_AT_ONCE, max(1, memory.free() // DECODING))
    bad = dict[int, Skipped]()
    # Pillow warns of odd metadata.
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(at_once) as pool:
        try:
            decoders = [pool.submit(decode) for _ in range(at_once)]
            wait(decoders, return_when=FIRST_EXCEPTION)
        finally:
            deque(left, maxlen=0)  # after a failure or an interrupt, the other threads end
        for each in decoders:
            bad |= each.result()
    skipped += (bad[number] for number in sorted(bad))
    kept = np.setdiff1d(np.arange(len(names)), list(bad))
    labels = np.array([classes.index(_split_and_class(name)[1]) for name in names], np.int64)
    files = np.array([str(paths.IMAGES / name) for name in names], dtype=object)
    return Samples(images, labels, classes, files, resize).take(kept)


def _interleave(names: Sequence[str]) -> list[str]:
    """Order the first of each class, the second of each, and so on.

    Figures show the first samples of a split, which should be of all classes.
    """
    rank = {}
    seen = Counter[str]()
    for name in names:
        label = _split_and_class(name)[1]
        seen[label] += 1
        rank[name] = seen[label]
    return sorted(names, key=rank.__getitem__)


def _split_and_class(name: str) -> tuple[str, str]:
    """Return the split and the class of an image, by its path in data/images."""
    first, second = name.split("/")[:2]
    return (first, second) if first in SPLITS else ("train", first)


def _check(info: zipfile.ZipInfo) -> str:
    """Return the member's name. Raises ValueError for another writer's, such as a zip bomb."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > decoding.MOST_BYTES:
        raise ValueError(f"{shown(info.filename)}: not as it was packed")
    return info.filename


def _list_images(root: Path) -> Listing:
    """List all files below `root`. Raises DataError where there are none."""
    splits = [split for split in SPLITS if (root / split).is_dir()]
    folders = {split: root / split for split in splits} or {"train": root}
    images, others, faults = listing = Listing({}, [], {})
    for path in files_below(root):
        below = path.relative_to(root).parts
        name = "/".join(below)
        if path.is_dir():
            faults[path] = "a link to a folder; put the folder itself here"
        elif path.suffix.lower() not in SUFFIXES:
            others.extend([] if below == ("README.md",) else [path])
        elif len(below) < (3 if splits else 2):
            faults[path] = "in no class's folder"
        elif not _is_utf8(name):
            faults[path] = "its name is not UTF-8"
        else:
            images[name] = path
    faults |= _misplaced(root, folders) | _missing(root, folders, images) | faults
    if not images and not faults:
        raise DataError(f"{root}: no images; its README.md describes the layout")
    return listing


def files_below(folder: Path) -> Iterator[Path]:
    """Yield all files below `folder` that are not hidden, sorted, and links to folders."""
    for path in _visible(folder):
        if path.is_dir() and not path.is_symlink():
            yield from files_below(path)
        else:
            yield path


def _visible(folder: Path) -> list[Path]:
    """List what is not hidden, sorted."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None


def _misplaced(root: Path, folders: Mapping[str, Path]) -> Faults:
    """Return folders that make it ambiguous which folders are splits and which are classes."""
    others = [path for path in _visible(root) if path.is_dir() and path.name not in SPLITS]
    beside = f"beside {', '.join(folders)}"
    faults = {}
    if root not in folders.values():
        faults |= dict.fromkeys(others, f"a folder {beside}")
    for path in others:
        if path.name.lower() in SPLITS:
            faults[path] = f"should be called {path.name.lower()}"
    if "train" not in folders:
        faults[root / "train"] = f"missing {beside}"
    return faults


def _missing(root: Path, folders: Mapping[str, Path], names: Iterable[str]) -> Faults:
    """Return splits without images of a class; each folder is a class."""
    seen = {_split_and_class(name) for name in names}
    visible = [path for folder in folders.values() for path in _visible(folder)]
    classes = {path.name for path in visible if path.is_dir()}
    needed = [(split, name) for split in folders for name in sorted(classes)]
    faults = {folders[split] / name: "no images in it" for split, name in needed if (split, name) not in seen}
    if len(classes) == 1:
        faults[root] = f"one class, {classes.pop()}; needs two or more"
    return faults


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(path: Path) -> bytes:
    """Read a file. Raises DataError for a link to a file outside, unless it is in DVC's cache."""
    content = decoding.content(path)
    target = path.resolve()
    is_inside = target.is_relative_to(paths.IMAGES.resolve())
    if not is_inside and not DVC_CACHE.search(target.as_posix()):
        raise DataError(f"a link to a file outside of {paths.IMAGES}, {target}")
    return content


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    return info


def _message(what: str, faults: Faults) -> str:
    lines = [f"\n  {shown(str(path))}: {shown(reason)}" for path, reason in sorted(faults.items())]
    more = f"\n  and {len(lines) - MOST_LINES:,} more" if len(lines) > MOST_LINES else ""
    return f"{paths.IMAGES}: {len(lines):,} {what}:{''.join(lines[:MOST_LINES])}{more}"


def shown(text: str) -> str:
    """Return `text` on one line, with control characters escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
