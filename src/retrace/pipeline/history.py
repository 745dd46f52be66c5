"""Read the experiment of each of many commits, in milliseconds, from what git and DVC keep."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from retrace.errors import RetraceError
from retrace.pipeline import dvc_internals, git, git_objects, hashing, loading, snapshot
from retrace.pipeline.definition import Pipeline
from retrace.pipeline.git_objects import Objects
from retrace.pipeline.recorded import Experiment, Recorded
from retrace.settings import Settings

LOCK = "dvc.lock"
DECLARING = (".dvc", ".dvcignore", ".dvc/config", "dvc.yaml")
READ = ("config", *snapshot.OF_DVC, *snapshot.SETTINGS)
MAX_BYTES = 20 * 10**6  # of a file with numbers; larger ones are data

Wanted = dict[str, str]  # an id of the content by path


class History:
    """Reads commits. One folder has the files of a commit, and only what differs is rewritten."""

    def __init__(self, objects: Objects, folder: Path, settings: Settings) -> None:
        self._objects = objects
        self._folder = folder
        self._settings = settings
        self._written: Wanted = {}
        self._sizes: dict[str, int] = {}
        self._pipelines: dict[frozenset[tuple[str, str]], Pipeline] = {}
        self._read: dict[frozenset[tuple[str, str]], Experiment | None] = {}
        self._listed = lru_cache(git_objects.MAX_TREES)(self._list)
        self._prefix = (git.output("rev-parse", "--show-prefix") or "").rstrip("/")

    def read(self, rev: str) -> Experiment | None:
        """Return the experiment of a commit; None if it has no dvc.lock, or one without stages.

        Raises RetraceError if a file of DVC in it is not valid.
        """
        tree = self._objects.find(f"{rev}:{self._prefix}")
        if tree is None or tree[1] != "tree":
            return None
        wanted = {path: identity for path, identity in self._listed(tree[0]) if identity}
        if not any(_name(path) == LOCK for path in wanted):
            return None
        try:
            return self._experiment(tree[0], wanted)
        except (RetraceError, KeyError, OSError) as error:
            raise RetraceError(self._reason(str(error))) from None

    def _reason(self, message: str) -> str:
        """Return a message in one line, without the temporary folder and advice about its files."""
        text = " ".join(message.partition("; `git diff")[0].split())
        return re.sub(rf"[^\s'\"]*{re.escape(self._folder.name)}/?", "", text)

    def _experiment(self, tree: str, wanted: Wanted) -> Experiment | None:
        self._show(wanted)
        for path, identity in self._listed(tree):
            if not identity:  # DVC wants to see each `wdir`
                (self._folder / path).mkdir(parents=True, exist_ok=True)
        recorded = Recorded(self._folder, self._pipeline(wanted), is_partial=True)
        if not recorded.entries:
            return None
        numbers = dict(self._results(tree, recorded))
        locks = {path: wanted[path] for path in wanted if _name(path) == LOCK}
        about = frozenset([*locks.items(), *numbers.items(), ("", str(id(recorded.declared)))])
        if about not in self._read:
            self._show(wanted | numbers)
            self._read[about] = recorded.experiment(self._settings)
        return self._read[about]

    def _pipeline(self, wanted: Wanted) -> Pipeline:
        """Return the pipeline of the files in the folder, which is read once for equal files."""
        pipelines = [path for path in wanted if _name(path) == "dvc.yaml"]
        texts = [(self._folder / path).read_bytes() for path in pipelines]
        has_values = any(b"${" in text or b"vars" in text for text in texts)
        declaring = frozenset(
            (path, identity)
            for path, identity in wanted.items()
            if path.endswith(DECLARING) or (has_values and _name(path) != LOCK)
        )
        if declaring not in self._pipelines:
            self._pipelines[declaring] = loading.load(self._folder)
        return self._pipelines[declaring]

    def _results(self, tree: str, recorded: Recorded) -> Iterator[tuple[str, str]]:
        """Yield the files with numbers that git or DVC's cache has, with what identifies them."""
        for path, out, md5 in recorded.results():
            kept = list(self._in_git(tree, path))
            if kept or md5 is None:
                yield from kept
            else:
                yield from self._in_cache(path, out, md5)

    def _in_git(self, tree: str, path: str) -> Iterator[tuple[str, str]]:
        """Yield a file of a commit, or the files in a folder, with their ids."""
        is_folder = True
        identity = tree
        for name in PurePosixPath(path).parts:
            entry = self._objects.entries(identity).get(name) if is_folder else None
            if entry is None:
                return
            is_folder, identity = entry
        if is_folder:
            for name in self._objects.entries(identity):
                yield from self._in_git(tree, f"{path}/{name}")
        elif self._n_bytes(identity) <= MAX_BYTES:
            yield path, identity

    def _in_cache(self, path: str, out: str, md5: str) -> Iterator[tuple[str, str]]:
        """Yield a file in DVC's cache, or a folder's files, by their locations there."""
        for file, own in hashing.listed(self._cache, out, md5):
            source = hashing.object_path(self._cache, own)
            is_wanted = PurePosixPath(file).is_relative_to(path) and source.is_file()
            if is_wanted and source.stat().st_size <= MAX_BYTES and hashing.md5(source) == own:
                yield file, str(source.absolute())

    @cached_property
    def _cache(self) -> Path:
        return dvc_internals.objects()

    def _show(self, wanted: Wanted) -> None:
        """Make the folder have these files, and no others."""
        for path in self._written.keys() - wanted.keys():
            (self._folder / path).unlink()
            del self._written[path]
        for path, identity in wanted.items():
            if self._written.get(path) == identity:
                continue
            file = self._folder / path
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)  # has no files
            file.unlink(missing_ok=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            if "/" in identity:
                file.symlink_to(identity)
            else:
                file.write_bytes(self._objects.read(identity))
            self._written[path] = identity

    def _list(self, tree: str) -> tuple[tuple[str, str], ...]:
        """Return the files of a tree that DVC may read, with their ids; its folders without."""
        listed: list[tuple[str, str]] = []
        for name, (is_folder, identity) in self._objects.entries(tree).items():
            if is_folder:
                listed.append((name, ""))
                listed += [(f"{name}/{path}", own) for path, own in self._listed(identity)]
            elif name == LOCK or (
                name.endswith(READ) and self._n_bytes(identity) <= snapshot.MAX_SETTINGS
            ):
                listed.append((name, identity))
        return tuple(listed)

    def _n_bytes(self, blob: str) -> int:
        if blob not in self._sizes:
            header = self._objects.find(blob)
            self._sizes[blob] = header[2] if header else 0
        return self._sizes[blob]


@contextmanager
def opened(settings: Settings) -> Iterator[History]:
    """Yield a reader of the commits of the repository in the working directory."""
    with tempfile.TemporaryDirectory() as folder, git_objects.opened() as objects:
        yield History(objects, Path(folder).resolve(), settings)


def _name(path: str) -> str:
    return path.rpartition("/")[2]
