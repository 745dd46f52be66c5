"""Images of yours: a folder a class in data/images, within train, val and test folders or without.

Collecting packs them as they are into one file. Reading decodes each whole, as many at a time as there are cores, so
that whatever can't be used is known, by path and reason, before anything is trained.
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

from retrace import decoding, files, memory, paths
from retrace.errors import DataError, ParamsError
from retrace.samples import Parts, Samples, Skipped

PARTS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
ARCHIVE = "images.zip"
MOST_LINES = 20  # of faults
MOST_AT_ONCE = 8  # images that are decoded
DECODING = 1 << 31  # bytes, that one may take meanwhile
DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")  # where DVC may link a file of its own to

Edge = Annotated[int, Field(ge=1, le=2048)]  # pixels
Faults = dict[Path, str]  # what can't be used, and why


class Found(NamedTuple):
    """What is in data/images, but for hidden files and the README."""

    images: dict[str, Path]  # by the path in data/images: class/... or part/class/...
    others: list[Path]  # files without the suffix of an image
    faults: Faults


def collect(folder: Path) -> str:
    """`folder` holds images.zip alone, the same bytes for the same images; returns what was found.

    Raises DataError, with a line a fault, if a file can't be read or has no class; then `folder` is empty.
    """
    shutil.rmtree(folder, ignore_errors=True)
    images, others, faults = _found(paths.IMAGES)
    with files.atomic(folder / ARCHIVE) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name, path in sorted(images.items()):
            try:
                content = _content(path)
            except DataError as error:
                faults[path] = str(error)
                continue
            if not faults:
                archive.writestr(_member(name), content)
        if faults:
            raise DataError(_listed("to mend or remove", faults))
    n_classes = len({_placed(name)[1] for name in images})
    suffixes = Counter(path.suffix.lower() or "without suffix" for path in others)
    left_out = ", ".join(f"{count} {shown(suffix)}" for suffix, count in sorted(suffixes.items()))
    return f"{paths.IMAGES}, {len(images):,} images of {n_classes} classes" + (left_out and f"; left out: {left_out}")


def read(folder: Path, *, resize: Edge, crop: Edge, on_bad: Literal["fail", "skip"]) -> Parts:
    """The samples of each part, images of shape (n, 3, crop, crop); without parts all are for training.

    The shorter edge of an image becomes `resize` pixels, and of that a square of `crop` pixels in the middle is kept.
    What can't be decoded is skipped, or else raises DataError with a line an image.
    """
    if crop > resize:
        raise ParamsError(
            f"{paths.PARAMS}: datasets.image_folder.crop is {crop}; should be at most resize, which is {resize}"
        )
    try:
        with zipfile.ZipFile(folder / ARCHIVE) as archive:
            return _read(archive, resize, crop, skip=on_bad == "skip")
    except (OSError, EOFError, LookupError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise DataError(f"{folder / ARCHIVE}: {error}; `dvc repro download` makes it") from None


def _read(archive: zipfile.ZipFile, resize: int, crop: int, *, skip: bool) -> Parts:
    names = [_stored(info) for info in archive.infolist()]
    classes = tuple(sorted({_placed(name)[1] for name in names}))
    parts, skipped = {}, list[Skipped]()
    for part in PARTS:
        if own := [name for name in names if _placed(name)[0] == part]:
            parts[part] = _samples(archive, _in_turn(own), classes, resize, crop, skipped)
    if skipped and not skip:
        faults = {Path(bad.file): bad.reason for bad in skipped}
        raise DataError(_listed("to mend or remove, or else -S datasets.image_folder.on_bad=skip", faults))
    for part, samples in parts.items():
        if len(lacking := np.setdiff1d(np.arange(len(classes)), samples.labels)):
            raise DataError(f"{paths.IMAGES}: no image of class {shown(classes[lacking[0]])} can be used for {part}")
    return Parts(parts["train"], parts.get("val"), parts.get("test"), tuple(skipped))


def _samples(
    archive: zipfile.ZipFile,
    names: Sequence[str],
    classes: tuple[str, ...],
    resize: int,
    crop: int,
    skipped: list[Skipped],
) -> Samples:
    """What of `names` can be decoded; the others are added to `skipped`."""
    images, left = memory.array((len(names), 3, crop, crop), np.dtype(np.uint8)), iter(range(len(names)))

    def decode() -> dict[int, Skipped]:
        bad = {}
        for number in left:  # what no other thread has taken: a task an image would be a tenth of the time
            content = archive.read(names[number])
            try:
                images[number] = decoding.pixels(content, images.shape[1:], resize)
            except DataError as error:
                file, digest = str(paths.IMAGES / names[number]), hashlib.sha256(content).hexdigest()
                bad[number] = Skipped(file, digest, str(error))
        return bad

    at_once = min(os.cpu_count() or 1, MOST_AT_ONCE, max(1, memory.free() // DECODING))
    bad = dict[int, Skipped]()
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(at_once) as pool:  # warnings of odd metadata
        try:
            decoders = [pool.submit(decode) for _ in range(at_once)]
            wait(decoders, return_when=FIRST_EXCEPTION)
        finally:
            deque(left, maxlen=0)  # nothing is left to take where one failed, or this was interrupted
        for each in decoders:
            bad |= each.result()
    skipped += (bad[number] for number in sorted(bad))
    kept = np.setdiff1d(np.arange(len(names)), list(bad))
    labels = np.array([classes.index(_placed(name)[1]) for name in names], np.int64)
    files = np.array([str(paths.IMAGES / name) for name in names], dtype=object)
    return Samples(images, labels, classes, files, resize).take(kept)


def _in_turn(names: Sequence[str]) -> list[str]:
    """The first of each class, the second of each, and so on: pictures show the first samples of a part."""
    place, seen = {}, Counter[str]()
    for name in names:
        seen[_placed(name)[1]] += 1
        place[name] = seen[_placed(name)[1]]
    return sorted(names, key=place.__getitem__)


def _placed(name: str) -> tuple[str, str]:
    """The part and the class of an image, by its path in data/images."""
    first, second = name.split("/")[:2]
    return (first, second) if first in PARTS else ("train", first)


def _stored(info: zipfile.ZipInfo) -> str:
    """The member's name. Raises ValueError where it is none that `collect` wrote: a bomb is larger than it looks."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > decoding.MOST_BYTES:
        raise ValueError(f"{shown(info.filename)}: not as it was packed")
    return info.filename


def _found(root: Path) -> Found:
    parts = [part for part in PARTS if (root / part).is_dir()]
    places = {part: root / part for part in parts} or {"train": root}
    images, others, faults = found = Found({}, [], {})
    for path in files_below(root):
        below = path.relative_to(root).parts
        name = "/".join(below)
        if path.is_dir():
            faults[path] = "a link to a folder; put the folder itself here"
        elif path.suffix.lower() not in SUFFIXES:
            others.extend([] if below == ("README.md",) else [path])
        elif len(below) < (3 if parts else 2):
            faults[path] = "in no class's folder"
        elif not _is_utf8(name):
            faults[path] = "its name is not UTF-8"
        else:
            images[name] = path
    faults |= _misplaced(root, places) | _lacking(root, places, images) | faults
    if not images and not faults:
        raise DataError(f"{root}: no images; its README.md says how to lay them out, and which ones a copy sees")
    return found


def files_below(folder: Path) -> Iterator[Path]:
    """All below `folder` that is not hidden and no folder, sorted; a link to a folder is not entered, but told."""
    for path in _visible(folder):
        if path.is_dir() and not path.is_symlink():
            yield from files_below(path)
        else:
            yield path


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None


def _misplaced(root: Path, places: Mapping[str, Path]) -> Faults:
    """What leaves open which folders are parts and which are classes."""
    others = [path for path in _visible(root) if path.is_dir() and path.name not in PARTS]
    faults = {} if root in places.values() else {path: f"a folder beside {', '.join(places)}" for path in others}
    faults |= {path: f"should be called {path.name.lower()}" for path in others if path.name.lower() in PARTS}
    return faults if "train" in places else faults | {root / "train": f"missing beside {', '.join(places)}"}


def _lacking(root: Path, places: Mapping[str, Path], names: Iterable[str]) -> Faults:
    """Every part needs images of each class; whatever has a folder is a class."""
    seen = {_placed(name) for name in names}
    classes = {path.name for place in places.values() for path in _visible(place) if path.is_dir()}
    needed = [(part, name) for part in places for name in sorted(classes)]
    faults = {places[part] / name: "no images in it" for part, name in needed if (part, name) not in seen}
    return faults | ({root: f"one class, {classes.pop()}; needs two or more"} if len(classes) == 1 else {})


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(path: Path) -> bytes:
    content, target = decoding.content(path), path.resolve()
    if not target.is_relative_to(paths.IMAGES.resolve()) and not DVC_CACHE.search(target.as_posix()):
        raise DataError(f"a link that leads out of {paths.IMAGES}, to {target}")
    return content


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    return info


def _listed(what: str, faults: Faults) -> str:
    lines = [f"\n  {shown(str(path))}: {shown(reason)}" for path, reason in sorted(faults.items())]
    more = f"\n  and {len(lines) - MOST_LINES:,} more" if len(lines) > MOST_LINES else ""
    return f"{paths.IMAGES}: {len(lines):,} {what}:{''.join(lines[:MOST_LINES])}{more}"


def shown(text: str) -> str:
    """`text` on one line, whatever is in it."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
