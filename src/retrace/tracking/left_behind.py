"""Name the files that a stage lacks in the folder of a `--temp` or queued experiment.

DVC makes that folder from what git tracks. A new module or data file that a user has not added to
git is not there, and the stage fails with an error of its own.
"""

import os
import re
import shlex
from pathlib import Path, PurePosixPath

from retrace.pipeline import git
from retrace.system import files

N_LINES = 20  # of the output, in which the error is
MAX_NAMED = 5


def hint(printed: str) -> str:
    """Return which file that the end of the output names is missing here; empty if none is."""
    here = files.repository(Path.cwd()).resolve()
    root = files.root()
    if here == root:
        return ""
    error = "\n".join(printed.splitlines()[-N_LINES:])
    missing = [
        path
        for path in _new_files(root)
        if not (here / path).exists() and _is_named(PurePosixPath(path), error)
    ]
    if not missing:
        return ""
    named = missing[:MAX_NAMED]
    is_not, it = ("is not", "it") if len(named) == 1 else ("are not", "them")
    subject = f"{', '.join(named)} {is_not} in git, so DVC did not copy {it} to {here}"
    return f"{subject}; type `git add {shlex.join(named)}`, then run the experiment again"


def _new_files(root: Path) -> list[str]:
    """Return the files below `root` that git neither tracks nor ignores."""
    command = ("-C", str(root), "ls-files", "-z", "--others", "--exclude-standard")
    listed = git.raw_output(*command) or b""
    return [os.fsdecode(path) for path in listed.split(b"\0") if path]


def _is_named(path: PurePosixPath, error: str) -> bool:
    """Return whether an error names a file, its folder, or the module that it is."""
    words = [path.name, *(part.name for part in path.parents if part.name)]
    words += [path.stem] if path.suffix == ".py" else []
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", error) for word in words)
