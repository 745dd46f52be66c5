"""Your own images in data/images: one folder per class, optionally below train, val and test.

`collect` packs the files as they are into one archive. `read` decodes all of them, so that every
unusable image is reported, with its path and the reason, before anything is trained.
"""

import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lab import paths
from lab.data import file_tree, image_archive, layout
from lab.data.file_tree import IMAGE_SUFFIXES, FileTree
from lab.data.image_archive import Edge, Labeled, OnBad
from lab.data.samples import Splits
from lab.data.split_names import SPLITS
from lab.data.unusable import Problems, printable
from retrace.errors import DataError


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
    tree = file_tree.load(paths.IMAGES, unwrap=True)
    images, others, problems = _list(tree)
    image_archive.write(folder, tree.packed(images), problems, tree.remedy())
    n_classes = len({layout.split_and_class(name)[1] for name in images})
    summary = f"{tree.archive or tree.root}, {len(images):,} images of {n_classes} classes"
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


def smallest_class() -> int:
    """Return the number of training images in the class that has the fewest; 0 if there are none.

    Nothing is decoded. Raises DataError if the folder or its archive can't be read.
    """
    if not paths.IMAGES.is_dir():
        return 0
    tree = file_tree.load(paths.IMAGES, unwrap=True)
    try:
        images = _list(tree).images
    except DataError:  # there is nothing
        return 0
    classes = Counter(
        name for split, name in map(layout.split_and_class, images) if split == "train"
    )
    return min(classes.values(), default=0)


def _labeled(_archive: zipfile.ZipFile, names: Sequence[str]) -> Labeled:
    """Label each image by its folders."""
    classes = layout.class_names(names)
    indices = {name: index for index, name in enumerate(classes)}
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    labels: dict[str, int] = {}
    for name in sorted(names):  # a .tar.gz was packed in its own order
        split, class_name = layout.split_and_class(name)
        splits[split].append(name)
        labels[name] = indices[class_name]
    present = {split: own for split, own in splits.items() if own}
    return Labeled(present, labels, tuple(classes.values()))


def _list(tree: FileTree) -> Listing:
    """List the images. Raises DataError if there is nothing."""
    root = tree.root
    has_splits = any(tree.folders_in(root / split) for split in SPLITS)
    listing = Listing({}, [], dict(tree.problems))
    for path in tree.files:
        parts = path.relative_to(root).parts
        name = "/".join(parts)
        if path in tree.problems:
            continue
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            listing.others.extend([] if name == file_tree.README else [path])
        elif len(parts) < (3 if has_splits else 2):
            if not layout.is_unlabeled(path, tree):
                listing.problems[path] = "not in a class folder"
        elif not image_archive.is_utf8(name):
            listing.problems[path] = "its name is not UTF-8"
        else:
            listing.images[name] = path
    of_folders = layout.problems(tree, listing.images, listing.others)
    for path, problem in of_folders.items():
        listing.problems.setdefault(path, problem)
    if not listing.images and not listing.problems:
        reason = "; ".join(["no images", *layout.why_none(listing.others)])
        hint = f"{root}/README.md explains the folder layout, and which images queued and --temp "
        raise DataError(f"{root}: {printable(reason)}; {hint}experiments can see")
    return listing
