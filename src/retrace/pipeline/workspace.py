"""A folder with a pipeline: its parameters, the hashes of its files, its state by dvc.lock.

The folder is the working tree, the copy of a queued experiment, or an exported commit.
"""

import posixpath
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from itertools import dropwhile, takewhile
from pathlib import Path, PurePosixPath
from typing import Any

from retrace.pipeline import (
    git,
    git_patch,
    hashing,
    identity,
    loading,
    lockfile,
    metrics,
    params_files,
    program,
)
from retrace.pipeline.definition import PARAMS_YAML, Pipeline, Stage, prefixes
from retrace.pipeline.overrides import Flat

MAX_PROGRAM = 10**6  # bytes; a larger file that a command names is data


class Workspace:
    """The pipeline in the folder `root`. Files are read when they are needed.

    Raises DataError if dvc.yaml is not valid.
    """

    def __init__(self, root: Path, pipeline: Pipeline | None = None) -> None:
        self.root = root
        self.pipeline = pipeline or loading.load(root)  # it may be known already
        self._values: dict[str, dict[str, Any]] = {}
        self._hashes: dict[str, str | None] = {}

    @cached_property
    def locked(self) -> Mapping[str, lockfile.Locked]:
        """The stages that dvc.lock records. Raises DataError if it is not valid."""
        return lockfile.read(self.root, self.pipeline)

    @cached_property
    def recorded(self) -> dict[str, str]:
        """The hash that dvc.lock records of each output, by path."""
        return {
            path: md5
            for entry in self.locked.values()
            for path, md5 in lockfile.md5s(entry.outs).items()
        }

    def params(self, *stages: Stage) -> Flat:
        """Return the values that these stages read, in DVC's notation: lr, train.toml:lr."""
        flat: Flat = {}
        for stage in stages:
            for file, keys in stage.params.items():
                flat |= _prefixed(file, params_files.select(self._read(file), keys))
        return flat

    def hashes(self, paths: Iterable[str]) -> dict[str, str]:
        """Return the hash of each of these files and folders that exists here."""
        hashed = {path: self._hash(path) for path in paths}
        return {path: md5 for path, md5 in hashed.items() if md5}

    def key(self, *, without: Collection[str] = ()) -> str:
        """Return the experiment's identity, as if no stage read the parameters in `without`."""
        stages = self.pipeline.stages.values()
        return identity.key(
            commands={stage.name: stage.commands for stage in stages},
            params={k: v for k, v in self.params(*stages).items() if k not in without},
            files=self.leaf_hashes(self.pipeline.leaves),
        )

    def leaf_hashes(self, paths: Iterable[str]) -> dict[str, str | None]:
        """Return the hashes of files that no stage makes."""
        return {path: self._leaf(path) for path in paths}

    def metrics(self, names: Collection[str] | None = None) -> dict[str, float]:
        """Return the numbers in the metrics files, without those that dvc.lock does not record.

        With `names`, without those that other stages make.
        """
        free = [path for path in self.pipeline.metrics if self.pipeline.maker(path) is None]
        values = dict(metrics.read_all(self.root / path for path in free).numbers)
        for stage in self.pipeline.stages.values():
            if names is None or stage.name in names:
                values |= self.summary(stage, self._numbers(stage, is_recorded=True))
        return values

    def summary(self, stage: Stage, numbers: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of a stage by their names among those of the experiment.

        A key that the metrics files of an earlier stage have too gets the stage's name before it.
        """
        prefix = stage.metrics_prefix
        taken: set[str] = set()
        for name in () if prefix else takewhile(stage.name.__ne__, self.pipeline.stages):
            earlier = self.pipeline.stages[name]
            taken |= set() if earlier.metrics_prefix else self._numbers(earlier).keys()
        return {
            f"{stage.name}/{key}" if key in taken else f"{prefix}{key}": value
            for key, value in numbers.items()
        }

    def shared(self, stage: Stage, numbers: Mapping[str, float]) -> dict[str, float]:
        """Return the metrics of later stages with the same keys, if these stages are up to date.

        If they first ran before this one, they could not know that they share its keys.
        """
        shared: dict[str, float] = {}
        for later in dropwhile(stage.name.__ne__, self.pipeline.stages):
            other = self.pipeline.stages[later]
            is_other = later != stage.name and not (stage.metrics_prefix or other.metrics_prefix)
            values = self._numbers(other, is_recorded=True) if is_other else {}
            both = {f"{later}/{key}": values[key] for key in values.keys() & numbers.keys()}
            if both and self._is_recorded(other):
                read = lockfile.md5s(self.locked[later].deps)
                shared |= both if self.hashes(read) == read else {}
        return shared

    def _numbers(self, stage: Stage, *, is_recorded: bool = False) -> dict[str, float]:
        """Return the numbers in a stage's metrics files, or in those that dvc.lock records."""
        files = self.pipeline.files_of(stage, "metric")
        if is_recorded:
            files = [file for file in files if self._hash(file) == self.recorded.get(file)]
        return metrics.read_all(self.root / file for file in files).numbers

    def changes(self) -> bytes:
        """Return how code, parameters and dvc.yaml differ from the last commit, as a patch.

        Files that git does not track yet are code if they have the suffix of a program that git
        tracks and a stage runs. Others may be data, of any size, unless a stage runs or imports
        them. What only the user's own ignore files hide is code if a stage runs, imports or reads
        it. Raises RetraceError if git fails.
        """
        pipeline = self.pipeline
        programs = set(filter(None, map(self.program, pipeline.stages.values())))
        tracked = (programs & pipeline.leaves.keys()) - git.untracked(programs, self.root)
        suffixes = {Path(path).suffix for path in tracked} - {""}
        own = {path for path in programs if self._is_small(path)}
        own |= {*pipeline.params_files, *pipeline.files}
        new = [git.literal(path) for path in sorted(own)]
        new += [f":(glob)**/*{suffix}" for suffix in sorted(suffixes)]
        shown = {*pipeline.metrics, *pipeline.plots} - pipeline.leaves.keys()  # DVCLive's files
        outs = {*pipeline.makers, *shown}
        names, hidden = git_patch.untracked_files(self.root, new, outs)
        names |= hidden & own
        names |= {name for name in hidden - names if self._is_read(name)}
        names |= hidden & self._imported() if hidden - names else set()
        return git_patch.uncommitted(self.root, outs=outs, new=names)

    def _is_small(self, path: str) -> bool:
        return (self.root / path).stat().st_size <= MAX_PROGRAM

    def _is_read(self, path: str) -> bool:
        """Return whether a stage reads a file, or the folder that it is in."""
        is_private = any(part.startswith(".") for part in PurePosixPath(path).parts[:-1])
        return not is_private and not self.pipeline.leaves.keys().isdisjoint([*prefixes(path), "."])

    def _imported(self) -> set[str]:
        """Return the files that Python programs of stages import."""
        stages = self.pipeline.stages.values()
        programs = ((stage, self.program(stage)) for stage in stages)
        python = ((stage, name) for stage, name in programs if name and name.endswith(".py"))
        return set().union(*(program.imported(self.root, *each) for each in python))

    def program(self, stage: Stage) -> str | None:
        """Return the path of a stage's program: the first file that its commands name."""
        words = [word for command in stage.commands for word in command.split()]
        inside = (word for word in words if not word.startswith("/"))
        paths = (posixpath.normpath(posixpath.join(stage.folder, word)) for word in inside)
        return next((path for path in paths if (self.root / path).is_file()), None)

    def is_up_to_date(self, names: Collection[str] | None = None) -> bool:
        """Return whether dvc.lock records `names`, or all stages, with these params and files."""
        stages = self.pipeline.stages.values()
        return all(self._is_recorded(s) for s in stages if names is None or s.name in names)

    def _is_recorded(self, stage: Stage) -> bool:
        entry = self.locked.get(stage.name)
        if entry is None or set(entry.deps) != set(stage.deps):
            return False
        if set(entry.outs) != {out.path for out in stage.outs}:
            return False
        if entry.commands != stage.commands or flat_params(entry.params) != self.params(stage):
            return False
        read = lockfile.md5s(entry.deps)
        return all(self._is_current(path, md5) for path, md5 in read.items())

    def _is_current(self, path: str, md5: str) -> bool:
        """Return whether the maker of a file recorded this hash, else whether the file has it."""
        if path in self.recorded:
            return self.recorded[path] == md5
        return self._hash(path) in (md5, None) or hashing.md5(self.root / path) == md5

    def _leaf(self, path: str) -> str | None:
        """Return the hash of a file that no stage makes, from its .dvc file or from dvc.lock.

        A commit that was exported does not have the file itself, unless git has it.
        """
        known = self._sources.get(path) or self._hash(path)
        if known:
            return known
        names = self.pipeline.leaves.get(path, ())
        readers = [self.locked[name] for name in names if name in self.locked]
        hashes = (entry.deps.get(path) for entry in readers)
        return next((each.value for each in hashes if each), None)

    @cached_property
    def _sources(self) -> dict[str, str | None]:
        return {source.path: source.md5 for source in self.pipeline.sources}

    def _hash(self, path: str) -> str | None:
        if path not in self._hashes:
            file = self.root / path
            self._hashes[path] = _md5(file) if file.exists() else None
        return self._hashes[path]

    def _read(self, file: str) -> dict[str, Any]:
        if file not in self._values:
            self._values[file] = params_files.read(self.root / file)
        return self._values[file]


def _md5(file: Path) -> str:
    """Return DVC's hash of a file or folder, which stays when Python compiles code in it."""
    return hashing.md5(file, has_bytecode=False)


def flat_params(params: Mapping[str, Mapping[str, Any]]) -> Flat:
    """Return parameters by file, as dvc.lock has them, by their names: lr, train.toml:lr."""
    flat: Flat = {}
    for file, values in params.items():
        flat |= _prefixed(file, params_files.select(values, ()))
    return flat


def _prefixed(file: str, values: Flat) -> Flat:
    prefix = "" if file == PARAMS_YAML else f"{file}:"
    return {f"{prefix}{key}": value for key, value in values.items() if value != {}}
