"""Your own images in data/images: one folder per class, optionally below train, val and test.

`collect` packs the files as they are into one archive. `read` decodes all of them, so that every
unusable image is reported, with its path and the reason, before anything is trained.
"""

import re
import sys
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from lab import paths
from lab.data import decoding, image_archive, layout
from lab.data.image_archive import Edge, Labeled, OnBad, Packed
from lab.data.layout import SPLITS, SUFFIXES
from lab.data.samples import Splits
from lab.data.unusable import Problems, printable
from retrace.errors import DataError

DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")  # to which DVC may link a file


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
    images, others, problems = _list(paths.IMAGES)
    packed = (Packed(name, path, partial(_content, path)) for name, path in sorted(images.items()))
    image_archive.write(folder, packed, problems)
    n_classes = len({layout.split_and_class(name)[1] for name in images})
    summary = f"{paths.IMAGES}, {len(images):,} images of {n_classes} classes"
    left_out = f"left out: {printable(layout.by_suffix(others))}"
    if remedies := layout.remedies(others):
        print(f"warning: {paths.IMAGES}: {left_out}; {remedies}", file=sys.stderr)
    return f"{summary}; {left_out}" if others else summary


def read(folder: Path, *, resize: Edge, crop: Edge, on_bad: OnBad) -> Splits:
    """Decode the samples of each split, images of shape (n, 3, crop, crop).

    Without split folders, all images belong to the training split. The shorter edge of an image is
    resized to `resize` pixels, then the center is cropped. Images that can't be decoded are
    skipped, or raise DataError with one line for each.
    """
    return image_archive.read(
        folder, "image_folder", _labeled, resize=resize, crop=crop, on_bad=on_bad
    )


def _labeled(_archive: zipfile.ZipFile, names: Sequence[str]) -> Labeled:
    """Label each image by its folders."""
    classes = layout.class_names(names)
    indices = {name: index for index, name in enumerate(classes)}
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    labels: dict[str, int] = {}
    for name in names:
        split, class_name = layout.split_and_class(name)
        splits[split].append(name)
        labels[name] = indices[class_name]
    present = {split: own for split, own in splits.items() if own}
    return Labeled(present, labels, tuple(classes.values()))


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
