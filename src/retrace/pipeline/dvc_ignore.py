"""List the files in a folder that DVC hashes: those that no .dvcignore excludes.

DVC has patterns in the .dvcignore of each folder from its root downwards. Importing DVC takes half
a second, so it is asked only if a pattern could match a name in the folder.
"""

import os
from fnmatch import fnmatchcase
from pathlib import Path

IGNORE = ".dvcignore"
NOT_ENTERED = (".dvc", ".git", ".hg")  # DVC enters none of them, nor another DVC repository


def unignored(folder: Path) -> list[Path]:
    """Return the files in a folder and in those below it, without what DVC ignores."""
    files, names = _walked(folder)
    absolute = Path(os.path.abspath(folder))  # noqa: PTH100 - `..`, but no symbolic links resolved
    above = (absolute, *absolute.parents)
    root = next((each for each in above if (each / ".dvc").is_dir()), None)
    if root is None:
        return files
    names |= set(absolute.relative_to(root).parts)
    between = above[: above.index(root) + 1]
    patterns = [pattern for each in between for pattern in last_parts(each / IGNORE)]
    if not any(fnmatchcase(name, pattern) for pattern in patterns for name in names):
        return files
    from retrace.pipeline import dvc_internals  # imports this module, indirectly

    return [folder / file for file in dvc_internals.unignored(root, absolute)]


def last_parts(ignore: Path) -> list[str]:
    """Return the last part of each pattern in a .dvcignore; `*` for one that has an escape."""
    try:
        lines = map(str.strip, ignore.read_text(encoding="utf-8").splitlines())
    except OSError:
        return []
    patterns = [line for line in lines if line and not line.startswith("#")]
    return [
        "*" if "\\" in pattern else pattern.lstrip("!").rstrip("/").rpartition("/")[2]
        for pattern in patterns
    ]


def _walked(folder: Path) -> tuple[list[Path], set[str]]:
    """Return all files that DVC's own patterns leave, and the names of files and folders."""
    files: list[Path] = []
    names: set[str] = set()
    for path, folders, here in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if name not in NOT_ENTERED and not Path(path, name, ".dvc").exists()
        ]
        names |= {*folders, *here}
        files += [Path(path, name) for name in here if name != ".git"]
    return [file for file in files if file.is_file()], names
