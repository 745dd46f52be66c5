"""Images of yours: a folder a class in data/images, within train, val and test folders or without.

Collecting decodes every image whole and packs them all into one file, whose members' names say part and class.
Reading decodes them by the same function, so that what was collected can be read.
"""

import re
import shutil
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from retrace import paths
from retrace.errors import DataError, ParamsError
from retrace.samples import Parts, Samples

PARTS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # whatever the suffix: the content decides, and no exotic decoder runs
ARCHIVE = "images.zip"
MOST_PIXELS = 50_000_000  # an image
MOST_BYTES = 1 << 28  # a file
MOST_LINES = 20  # of faults
DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")  # where DVC may link a file of its own to

Edge = Annotated[int, Field(ge=1, le=2048)]  # pixels
Faults = dict[Path, str]  # what can't be used, and why


class Found(NamedTuple):
    """What is in data/images, but for hidden files and the README."""

    images: dict[str, Path]  # by the member's name: part/class/...
    others: list[Path]  # files without the suffix of an image
    faults: Faults


def collect(folder: Path) -> str:
    """`folder` holds images.zip alone, the same bytes for the same images; returns what was found.

    Raises DataError, with a line a fault, if anything can't be used; then `folder` is empty.
    """
    shutil.rmtree(folder, ignore_errors=True)
    images, others, faults = _found(paths.IMAGES)
    with paths.atomic(folder / ARCHIVE) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name, path in sorted(images.items()):
            try:
                content = _content(path)
                _decoded(content)
            except DataError as error:
                faults[path] = str(error)
                continue
            if not faults:
                archive.writestr(_member(name), content)
        if faults:
            raise DataError(_listed(faults))
    n_classes = len({name.split("/")[1] for name in images})
    suffixes = Counter(path.suffix.lower() or "without suffix" for path in others)
    left_out = ", ".join(f"{count} {_shown(suffix)}" for suffix, count in sorted(suffixes.items()))
    return f"{paths.IMAGES}, {len(images):,} images of {n_classes} classes" + (left_out and f"; left out: {left_out}")


def read(folder: Path, *, resize: Edge, crop: Edge) -> Parts:
    """The samples of each part, images of shape (n, 3, crop, crop); without parts all are for training.

    The shorter edge of an image becomes `resize` pixels, and of that a square of `crop` pixels in the middle is kept.
    """
    if crop > resize:
        raise ParamsError(
            f"{paths.PARAMS}: datasets.image_folder.crop is {crop}; should be at most resize, which is {resize}"
        )
    try:
        with zipfile.ZipFile(folder / ARCHIVE) as archive:
            classes = sorted({name.split("/")[1] for name in archive.namelist()})
            parts = {}
            for part in PARTS:
                if names := [name for name in archive.namelist() if name.startswith(f"{part}/")]:
                    parts[part] = _samples(archive, _in_turn(names), classes, resize, crop)
            return Parts(parts["train"], parts.get("val"), parts.get("test"))
    except (OSError, EOFError, LookupError, zipfile.BadZipFile, DataError) as error:
        raise DataError(f"{folder / ARCHIVE}: {error}; `dvc repro download` makes it") from None


def _in_turn(names: Sequence[str]) -> list[str]:
    """The first of each class, the second of each, and so on: pictures show the first samples of a part."""
    place, seen = {}, Counter[str]()
    for name in names:
        seen[name.split("/")[1]] += 1
        place[name] = seen[name.split("/")[1]]
    return sorted(names, key=place.__getitem__)


def _samples(archive: zipfile.ZipFile, names: Sequence[str], classes: Sequence[str], resize: int, crop: int) -> Samples:
    images = np.empty((len(names), 3, crop, crop), np.uint8)
    for image, name in zip(images, names, strict=True):
        image[:] = _square(_decoded(archive.read(name)), resize, crop)
    indices = {name: index for index, name in enumerate(classes)}
    return Samples(images, np.array([indices[name.split("/")[1]] for name in names], np.int64), tuple(classes))


def _found(root: Path) -> Found:
    parts = [part for part in PARTS if (root / part).is_dir()]
    places = {part: root / part for part in parts} or {"train": root}
    images, others, faults = found = Found({}, [], {})
    for path in _files(root):
        below = path.relative_to(root).parts
        name = "/".join(below if parts else ("train", *below))
        if path.is_dir():
            faults[path] = "a link to a folder; put the folder itself here"
        elif path.suffix.lower() not in SUFFIXES:
            others.extend([] if below == ("README.md",) else [path])
        elif name.count("/") < 2:
            faults[path] = "in no class's folder"
        elif not _is_utf8(name):
            faults[path] = "its name is not UTF-8"
        else:
            images[name] = path
    faults |= _misplaced(root, places) | _lacking(root, places, images) | faults
    if not images and not faults:
        raise DataError(f"{root}: no images; its README.md says how to lay them out, and which ones a copy sees")
    return found


def _files(folder: Path) -> Iterator[Path]:
    """All below `folder` that is not hidden and no folder; a link to a folder is not entered, but told."""
    for path in _visible(folder):
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
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
    seen = {tuple(name.split("/")[:2]) for name in names}
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
    try:
        if not path.is_file():
            raise DataError("a link to nothing" if path.is_symlink() else "not a file")
        target = path.resolve()
        if not target.is_relative_to(paths.IMAGES.resolve()) and not DVC_CACHE.search(target.as_posix()):
            raise DataError(f"a link that leads out of {paths.IMAGES}, to {target}")
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path.stat().st_size:,} bytes, more than {MOST_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(error.strerror or str(error)) from None


def _decoded(content: bytes) -> Image.Image:
    """The first frame, upright, in RGB. Raises DataError with the reason where any of it can't be decoded."""
    if not content:
        raise DataError("empty")
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd metadata
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                image.verify()  # PNG's checksums, which decoding skips
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                ImageOps.exif_transpose(image, in_place=True)
                return _rgb(image)
    except UnidentifiedImageError:
        raise DataError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image") from None
    except Image.DecompressionBombError:
        raise DataError(f"more than {MOST_PIXELS:,} pixels") from None
    except Exception as error:  # noqa: BLE001 - a decoder raises whatever a broken file leads it to
        raise DataError(" ".join(f"{error}".split()) or type(error).__name__) from None


def _rgb(image: Image.Image) -> Image.Image:
    """8 bits a channel, by the high byte where there are 16; what is transparent lets white through."""
    if image.mode.startswith("I"):
        grey, transparent = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray((grey >> 8).astype(np.uint8))
        if transparent is not None:
            image.putalpha(Image.fromarray(np.where(grey == transparent, 0, 255).astype(np.uint8)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _square(image: Image.Image, resize: int, crop: int) -> np.ndarray:
    """`image` cut out in the middle and shrunk in one go: a strip a pixel wide must not be enlarged as a whole."""
    side = min(image.size) * crop / resize
    left, top = ((edge - side) / 2 for edge in image.size)
    square = image.resize((crop, crop), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(square).transpose(2, 0, 1)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, 0o644 << 16
    return info


def _listed(faults: Faults) -> str:
    lines = [f"\n  {_shown(str(path))}: {_shown(reason)}" for path, reason in sorted(faults.items())]
    more = f"\n  and {len(lines) - MOST_LINES:,} more" if len(lines) > MOST_LINES else ""
    return f"{paths.IMAGES}: {len(lines):,} to mend or remove:{''.join(lines[:MOST_LINES])}{more}"


def _shown(text: str) -> str:
    """`text` on one line, whatever is in it."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
