"""The experiment that dvc.lock records, whatever code and parameters are beside it now."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from retrace.pipeline import grouping, identity, lockfile, metrics
from retrace.pipeline.definition import Out, Pipeline, Stage, prefixes
from retrace.pipeline.metrics import Contents
from retrace.pipeline.overrides import Flat
from retrace.pipeline.workspace import Workspace, flat_params
from retrace.settings import Settings


@dataclass(frozen=True)
class RecordedStage:
    """A stage as dvc.lock records it, with the numbers and texts of its metrics files."""

    name: str
    params: Flat
    deps: Mapping[str, str]  # hashes by path
    data: tuple[str, ...]  # those of deps that a stage or a .dvc file makes
    outs: Mapping[str, str]
    inputs: str  # see pipeline/identity
    contents: Contents
    summary: Mapping[str, float]  # the numbers by their names among those of the experiment


@dataclass(frozen=True)
class Experiment:
    """The experiment of a dvc.lock; `numbers` are in metrics files that no stage declares."""

    key: str
    place: Mapping[str, Any]  # the MLflow experiment and the group, see pipeline/grouping
    params: Flat
    stages: tuple[RecordedStage, ...]
    numbers: Mapping[str, float]
    is_complete: bool  # whether dvc.lock has all stages of dvc.yaml


class Recorded(Workspace):
    """A folder in which only dvc.lock says what the stages ran, read and made.

    Stages of dvc.lock whose inputs are not the outputs of the stages before them are left out. If
    dvc.lock is up to date, the key is that of the workspace. Raises DataError if dvc.yaml or
    dvc.lock is not valid.
    """

    def __init__(
        self, root: Path, pipeline: Pipeline | None = None, *, is_partial: bool = False
    ) -> None:
        super().__init__(root, pipeline)
        self.is_partial = is_partial  # a folder with the files of `results` only
        self.declared = self.pipeline
        self.entries = lockfile.current(lockfile.read(root, self.declared))
        stages = {
            name: _stage(self.declared.stages[name], entry) for name, entry in self.entries.items()
        }
        self.pipeline = replace(self.declared, stages=stages)

    def experiment(self, settings: Settings) -> Experiment:
        """Return the experiment. Raises ParamsError if a setting names an unknown parameter."""
        return Experiment(
            key=self.key(),
            place=grouping.of(self, settings),
            params=self.params(*self.pipeline.stages.values()),
            stages=tuple(map(self._recorded_stage, self.pipeline.stages.values())),
            numbers=self._contents(self._unmade()).numbers,
            is_complete=self.entries.keys() == self.declared.stages.keys(),
        )

    def params(self, *stages: Stage) -> Flat:
        """Return the values that dvc.lock records for these stages."""
        flat: Flat = {}
        for stage in stages:
            flat |= flat_params(self.entries[stage.name].params)
        return flat

    def results(self) -> Iterator[tuple[str, str, str | None]]:
        """Yield the files that may have numbers.

        With each, yield the output that it is, or is in, and that output's hash in dvc.lock.
        """
        stages = self.pipeline.stages.values()
        outs = [out.path for stage in stages for out in stage.outs if _may_have_numbers(out)]
        for path in dict.fromkeys((*self.pipeline.metrics_files, *outs)):
            if _is_inside(path):
                yield path, *self._output(path)

    def _recorded_stage(self, stage: Stage) -> RecordedStage:
        entry = self.entries[stage.name]
        params = self.params(stage)
        deps = lockfile.hashes(entry.deps)
        maker = self.pipeline.maker
        declared = [path for path in self.pipeline.metrics_files if maker(path) == stage.name]
        contents = self._contents(declared)
        if not contents.numbers:
            outs = [out.path for out in stage.outs if _may_have_numbers(out)]
            contents.numbers = self._relative(metrics.read_outs(self._intact(outs))).numbers
        return RecordedStage(
            name=stage.name,
            params=params,
            deps=deps,
            data=tuple(path for path in deps if self.declared.is_data(path)),
            outs=lockfile.hashes(entry.outs),
            inputs=identity.inputs(stage.name, entry.commands, params, deps),
            contents=contents,
            summary=self.summary(stage, contents.numbers),
        )

    def _unmade(self) -> list[str]:
        """Return the metrics files of the top level that no stage makes: DVCLive writes such."""
        makers = self.declared.maker  # also of stages that dvc.lock does not record
        return [path for path in self.declared.metrics if makers(path) is None]

    def _contents(self, paths: Iterable[str]) -> Contents:
        return self._relative(metrics.read_all(self._intact(paths)))

    def _intact(self, paths: Iterable[str]) -> Iterator[Path]:
        """Yield the files of outputs that have the hash in dvc.lock, and those of no output."""
        for path in filter(_is_inside, paths):
            out, recorded = self._output(path)
            is_whole = out == path or not self.is_partial
            if recorded is None or not is_whole or self._hash(out) == recorded:
                yield self.root / path

    def _output(self, path: str) -> tuple[str, str | None]:
        """Return the output that a path is, or is in, with its hash in dvc.lock."""
        out = next((each for each in prefixes(path) if each in self._outs), path)
        return out, self._outs.get(out)

    def _relative(self, contents: Contents) -> Contents:
        """Return contents in which names of files are relative to the root."""
        root = f"{self.root.as_posix()}/"

        def named(values: Mapping[str, Any]) -> dict[str, Any]:
            return {key.removeprefix(root): value for key, value in values.items()}

        return Contents(named(contents.numbers), named(contents.texts), contents.problems)

    @cached_property
    def _outs(self) -> dict[str, str]:
        """The hash that dvc.lock records of each output, by path."""
        hashes: dict[str, str] = {}
        for entry in self.entries.values():
            hashes |= lockfile.hashes(entry.outs)
        return hashes

    def _leaf(self, path: str) -> str | None:
        readers = (self.entries[name] for name in self.pipeline.leaves[path])
        hashes = (entry.deps.get(path) for entry in readers)
        return next((each.value for each in hashes if each), None) or self._sources.get(path)


def _may_have_numbers(out: Out) -> bool:
    """Return whether an output is no metrics file, but is read if there is none."""
    return out.kind == "out" and PurePosixPath(out.path).suffix.lower() in metrics.OUTS


def _is_inside(path: str) -> bool:
    """Return whether a path is in the repository."""
    return "://" not in path and not path.startswith(("/", "../"))


def _stage(declared: Stage, entry: lockfile.Locked) -> Stage:
    """Return a stage with what dvc.lock records, and what only dvc.yaml knows of its outputs."""
    known = {out.path: out for out in declared.outs}
    return replace(
        declared,
        commands=entry.commands,
        deps=tuple(entry.deps),
        params={file: tuple(values) for file, values in entry.params.items()},
        outs=tuple(known.get(path, Out(path)) for path in entry.outs),
    )
