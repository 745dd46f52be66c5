"""The folders of data/images: which are splits, which are classes, and which can be neither.

Folders named `train`, `val` and `test` are splits. A split by another name, such as `Training` or
`seg_test`, is refused with the command that renames it: it would be learned as a class.
"""

import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path

from lab.data.file_tree import FileTree
from lab.data.split_names import SPLITS, role
from lab.data.unusable import Problems

OTHER_IMAGES = ".gif .jp2 .jxl .svg .psd .tga .ppm .pgm .dng .cr2 .nef"
REMEDIES = {
    **dict.fromkeys((".heic", ".heif"), "convert HEIC to JPEG (it needs the package pillow-heif)"),
    **dict.fromkeys(OTHER_IMAGES.split(), "convert images to PNG or JPEG"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".7z", ".rar"), "unpack archives"),
}
FLAT = "no class folders in it; put its images into class folders, or move it out of {}"
LEAST_SHARED = 2  # class folders in both of two folders, which then are no classes


def split_and_class(name: str) -> tuple[str, str]:
    """Return the split and the class of an image, by its path in data/images.

    Class folders whose names differ in their Unicode form only (NFC, NFD) are one class.
    """
    split, folder = _split_and_folder(name)
    return split, normal(folder)


def class_names(names: Iterable[str]) -> dict[str, str]:
    """Return the classes in order: the name that a class's folder has, by its normal form."""
    folders = sorted({_split_and_folder(name)[1] for name in names})
    spelled: dict[str, str] = {}
    for folder in folders:
        spelled.setdefault(normal(folder), folder)
    return spelled


def normal(name: str) -> str:
    """Return a name in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", name)


def _split_and_folder(name: str) -> tuple[str, str]:
    first, second = name.split("/")[:2]
    return (first, second) if first in SPLITS else ("train", first)


def problems(tree: FileTree, names: Iterable[str], others: Sequence[Path]) -> Problems:
    """Find what is wrong with the folders, given the images and the other files."""
    root = tree.root
    inside = {name: tree.folders_in(root / name) for name in sorted(tree.folders_in(root))}
    return (
        _misnamed(root, inside)
        or _wrapped(tree, inside)
        or _alike(root, inside)
        or _incomplete(tree, names, others)
    )


def _misnamed(root: Path, inside: Mapping[str, set[str]]) -> Problems:
    """Find splits by another name, and splits whose class folders are one folder too deep.

    A name with other words counts next to another split, as dogs_train next to dogs_test, or with a
    folder in it that is the same split: steam_train may be a class.
    """
    names = sorted(inside, key=lambda name: (name not in SPLITS, name))
    roles = {name: own for name in names if (own := role(name))}
    alike: dict[frozenset[str], set[str]] = defaultdict(set)
    for own in roles.values():
        alike[own.rest].add(own.split)
    wrong: Problems = {}
    has_splits = any(split in inside for split in SPLITS)
    taken: dict[str, str] = {}  # the name of each split
    for name, (split, rest, is_certain) in roles.items():
        doubles = [each for each in inside[name] if (own := role(each)) and own.split == split]
        if not (is_certain or doubles or has_splits or len(alike[rest]) > 1):
            continue
        first = taken.setdefault(split, name)
        if first != name:
            merge = f"put all of its images into {root / split}"
            wrong[root / name] = f"is the split {split}, as {first} is; {merge}"
        elif len(inside[name]) == len(doubles) == 1:
            folder = root / name / doubles[0]
            wrong[folder] = f"one folder too deep; type: {_unwrap(folder)}"
        elif name != split:
            command = f"mv {_quoted(root / name)} {_quoted(root / split)}"
            wrong[root / name] = f"should be called {split}; type: {command}"
    return wrong


def _unwrap(folder: Path) -> str:
    """Return the command that moves all that is in a folder to the folder above."""
    return f"mv {_quoted(folder)}/* {_quoted(folder.parent)} && rmdir {_quoted(folder)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _wrapped(tree: FileTree, inside: Mapping[str, set[str]]) -> Problems:
    """Find the splits in a folder of the whole data set, or in the folder of each class."""
    root = tree.root
    wrong: Problems = {}
    for name, folders in inside.items():
        splits = sorted(each for each in folders if (own := role(each)) and own.is_certain)
        if name in SPLITS or len(splits) < LEAST_SHARED:
            continue
        path = root / name
        if any(tree.folders_in(path / each) for each in splits):
            wrong[path] = f"holds the splits {' and '.join(splits)}; type: {_unwrap(path)}"
        else:
            example = f"{path / splits[0]} should be {root / 'SPLIT' / name}"
            wrong[path] = f"a class that holds the splits {' and '.join(splits)}; {example}"
    return wrong


def _alike(root: Path, inside: Mapping[str, set[str]]) -> Problems:
    """Find folders with the same class folders in them: splits by an unknown name, not classes."""
    folders = {
        name: {normal(each).casefold() for each in below}
        for name, below in inside.items()
        if name not in SPLITS and len(below) >= LEAST_SHARED
    }
    wrong: Problems = {}
    for first, second in combinations(folders, 2):
        shared = sorted(folders[first] & folders[second])
        if len(shared) >= LEAST_SHARED:
            both = f"{first} and {second} hold the same folders, such as {', '.join(shared[:2])}"
            remedy = "call splits train, val and test, or take the images of classes out of these"
            wrong.setdefault(root / second, f"no class: {both}; {remedy}")
    return wrong


def _incomplete(tree: FileTree, names: Iterable[str], others: Sequence[Path]) -> Problems:
    """Find splits without class folders; or a missing train folder, and what `_classes` finds."""
    root = tree.root
    splits = {split: root / split for split in SPLITS if split in tree.folders_in(root)}
    flat = {folder: FLAT.format(root) for folder in splits.values() if not tree.folders_in(folder)}
    if flat or not splits:
        return flat or _classes({"train": root}, tree, names, others)
    beside = f"next to {', '.join(splits)}"
    wrong = {
        root / name: f"an unexpected folder {beside}"
        for name in tree.folders_in(root) - set(SPLITS)
    }
    if "train" not in splits:
        wrong[root / "train"] = f"missing {beside}"
    return wrong | _classes(splits, tree, names, others)


def _classes(
    splits: Mapping[str, Path], tree: FileTree, names: Iterable[str], others: Sequence[Path]
) -> Problems:
    """Find each split's classes without images, and a lone class: two are needed."""
    present = {split_and_class(name) for name in names}
    folders = {
        split: {normal(name): name for name in tree.folders_in(splits[split])} for split in splits
    }
    classes = sorted(set().union(*folders.values()))
    wrong: Problems = {}
    for split, name in product(splits, classes):
        if (split, name) not in present:
            folder = splits[split] / folders[split].get(name, name)
            here = [path for path in others if path.is_relative_to(folder)]
            wrong[folder] = "; ".join(["no images in it", *why_none(here)])
    if len(classes) == 1:
        wrong[tree.root] = f"one class, {classes[0]}; needs two or more"
        inside = tree.root / classes[0]
        if tree.folders_in(inside):
            wrong[tree.root] += f"; if the classes are in {inside}, type: {_unwrap(inside)}"
    return wrong


def is_unlabeled(image: Path, tree: FileTree) -> bool:
    """Return whether an image is in a split without class folders: one problem for all of them."""
    folder = image.parent
    is_split = folder.name in SPLITS and folder.parent == tree.root
    return is_split and not tree.folders_in(folder)


def why_none(others: Sequence[Path]) -> list[str]:
    """Return the files that are there instead of images, and what to do about them."""
    return [f"left out: {by_suffix(others)}", *filter(None, [remedies(others)])] if others else []


def by_suffix(others: Iterable[Path]) -> str:
    """Count files by their suffix: `2 .heic, 1 .txt, 1 without suffix`."""
    suffixes = Counter(path.suffix.lower() or "without suffix" for path in others)
    return ", ".join(f"{n_files} {suffix}" for suffix, n_files in sorted(suffixes.items()))


def remedies(others: Iterable[Path]) -> str:
    """Return what to do about files that are images, or archives of images, but not of ours."""
    suffixes = sorted({path.suffix.lower() for path in others} & REMEDIES.keys())
    return "; ".join(dict.fromkeys(REMEDIES[suffix] for suffix in suffixes))
