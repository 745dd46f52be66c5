"""The pipeline of any DVC repository: its stages, in the order in which data flows.

All paths are relative to the repository's root, the nearest folder with `.dvc/`, and have forward
slashes. An external path, such as `s3://bucket/key`, stays as it is written.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from retrace.errors import DataError
from retrace.settings import PredictionsTable

DVC_YAML = "dvc.yaml"  # the root's; a stage of another one has its path in the name
PARAMS_YAML = "params.yaml"  # the root's; keys of another file have its path before them
NAME = re.compile(r"^(?:((?:.*?/)?dvc\.yaml):)?(.*)$", re.DOTALL)

Kind = Literal["out", "metric", "plot"]


def qualified(file: str, name: str) -> str:
    """Return the name of a stage or an artifact of a dvc.yaml: `train`, `sub/dvc.yaml:train`."""
    return name if file == DVC_YAML else f"{file}:{name}"


def split_name(name: str) -> tuple[str, str]:
    """Return the dvc.yaml and the name in it; the inverse of `qualified`."""
    file, name = NAME.findall(name)[0]  # it matches any text
    return file or DVC_YAML, name


def commands(cmd: Any) -> tuple[str, ...]:
    """Return the commands that DVC runs for a `cmd`: a list's entries, or a text's lines."""
    entries = cmd if isinstance(cmd, list) else str(cmd).splitlines()
    return tuple(map(str, entries))


def prefixes(path: str) -> Iterator[str]:
    """Yield a path, and the folders that it is in, the longest first."""
    while path:
        yield path
        path = path.rpartition("/")[0]


@dataclass(frozen=True)
class Out:
    """An output of a stage."""

    path: str
    kind: Kind = "out"
    is_cached: bool = True
    is_persistent: bool = False  # `persist: true`: not deleted before the stage runs


@dataclass(frozen=True)
class Stage:
    """A stage, with each `${...}` replaced and each `foreach` and `matrix` expanded.

    `params` has the keys that the stage reads, by file; no keys mean the whole file.
    """

    name: str  # train, train@cnn, sub/dvc.yaml:train
    commands: tuple[str, ...]  # of each line, or each entry of a list
    folder: str = "."  # `wdir`, in which the commands run
    deps: tuple[str, ...] = ()
    params: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    outs: tuple[Out, ...] = ()
    is_frozen: bool = False
    always_changed: bool = False

    @property
    def metrics_prefix(self) -> str:
        """What the stage's metrics begin with among those of the experiment.

        A stage of `foreach`, `matrix` or another dvc.yaml shares its keys with others of its kind.
        """
        _, name = split_name(self.name)
        return f"{self.name}/" if name != self.name or "@" in name else ""


@dataclass(frozen=True)
class Source:
    """Data that a `.dvc` file names: `dvc add`, `dvc import` or `dvc import-url` made it."""

    file: str  # data/raw.csv.dvc
    path: str  # data/raw.csv
    md5: str | None = None


@dataclass(frozen=True)
class Artifact:
    """An entry of `artifacts:`."""

    name: str
    path: str
    type: str | None = None


@dataclass(frozen=True)
class Pipeline:
    """All stages of a repository, each after the stages whose outputs it reads.

    Raises DataError if stages depend on each other in a circle.
    """

    stages: Mapping[str, Stage]
    sources: tuple[Source, ...] = ()
    metrics: tuple[str, ...] = ()  # of dvc.yaml's top level
    plots: tuple[str, ...] = ()  # files and folders of dvc.yaml's top level
    artifacts: tuple[Artifact, ...] = ()
    predictions: tuple[PredictionsTable, ...] = ()  # plots with `template: confusion`

    def __post_init__(self) -> None:
        ordered = {name: self.stages[name] for name in self._topological()}
        object.__setattr__(self, "stages", ordered)

    def maker(self, path: str) -> str | None:
        """Return the stage that makes the file or folder `path`, or a part or the whole of it.

        The longest prefix decides: of `models` and `models/a`, the latter makes `models/a/b`. A
        folder that is no output itself is made by the first stage that makes something in it.
        """
        for prefix in prefixes(path):
            if prefix in self.makers:
                return self.makers[prefix]
        return next(iter(self.makers_within(path)), None)

    @cached_property
    def makers(self) -> dict[str, str]:
        """The stage that makes each output, by path."""
        return {out.path: stage.name for stage in self.stages.values() for out in stage.outs}

    def is_data(self, path: str) -> bool:
        """Return whether a stage or a .dvc file makes `path`."""
        sources = {source.path for source in self.sources}
        return self.maker(path) is not None or not sources.isdisjoint(prefixes(path))

    def upstream(self, name: str) -> list[str]:
        """Return the stages that make what stage `name` reads, without those before them."""
        return list(dict.fromkeys(self._upstream(self.stages[name])))

    def ancestors(self, *names: str) -> list[str]:
        """Return these stages and all that come before them, in topological order."""
        wanted = set(names)
        for name in reversed(list(self.stages)):
            wanted |= set(self.upstream(name)) if name in wanted else set()
        return [name for name in self.stages if name in wanted]

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The paths of the artifacts of type model."""
        return tuple(artifact.path for artifact in self.artifacts if artifact.type == "model")

    @cached_property
    def measuring(self) -> tuple[str, ...]:
        """The stages that make metrics files."""
        makers = filter(None, map(self.maker, self.metrics_files))
        return tuple(dict.fromkeys(makers))

    @cached_property
    def training(self) -> tuple[str, ...]:
        """The stages that make models; without any, those that make metrics files."""
        makers = filter(None, map(self.maker, self.models))
        return tuple(dict.fromkeys(makers)) or self.measuring

    @cached_property
    def leaves(self) -> dict[str, list[str]]:
        """The paths that no stage makes, each with the stages that read it.

        Of a folder in which stages make something, the rest counts: what .dvc files name in it.
        """
        read: dict[str, list[str]] = {}
        for stage in self.stages.values():
            for leaf in (leaf for dep in stage.deps for leaf in self._leaves_of(dep)):
                read.setdefault(leaf, []).append(stage.name)
        return read

    @cached_property
    def metrics_files(self) -> tuple[str, ...]:
        """All metrics files, those of stages first."""
        own = [out.path for stage in self.stages.values() for out in _of_kind(stage, "metric")]
        return tuple(dict.fromkeys([*own, *self.metrics]))

    def files_of(self, stage: Stage, kind: Kind) -> list[str]:
        """Return the metrics or plots of a stage: its own, and the top level's that it makes."""
        top = self.metrics if kind == "metric" else self.plots
        made = [path for path in top if self.maker(path) == stage.name]
        return list(dict.fromkeys([*(out.path for out in _of_kind(stage, kind)), *made]))

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Each dvc.yaml with stages."""
        return tuple(dict.fromkeys(split_name(name)[0] for name in self.stages))

    @cached_property
    def params_files(self) -> tuple[str, ...]:
        """All params files that a stage reads."""
        files = (file for stage in self.stages.values() for file in stage.params)
        return tuple(dict.fromkeys(files))

    def _topological(self) -> Iterable[str]:
        """Yield the names in topological order; of stages that are free, in dvc.yaml's order."""
        position = {name: index for index, name in enumerate(self.stages)}
        sorter = TopologicalSorter(
            {name: set(self._upstream(stage)) - {name} for name, stage in self.stages.items()}
        )
        try:
            sorter.prepare()
        except CycleError as error:
            circle = " -> ".join(error.args[1])
            raise DataError(
                f"dvc.yaml: stages depend on each other in a circle: {circle}"
            ) from None
        ready: list[str] = []
        while sorter.is_active():
            ready = sorted([*ready, *sorter.get_ready()], key=position.__getitem__)
            name = ready.pop(0)
            yield name
            sorter.done(name)

    def _upstream(self, stage: Stage) -> Iterator[str]:
        for dep in stage.deps:
            own = [self.makers[dep]] if dep in self.makers else self.makers_within(dep)
            maker = self.maker(dep)
            yield from own or ([maker] if maker else [])

    def _leaves_of(self, dep: str) -> list[str]:
        if self.maker(dep) is None:
            return [dep]
        is_out = not self.makers.keys().isdisjoint(prefixes(dep))
        inside = "" if dep == "." else f"{dep.rstrip('/')}/"
        paths = () if is_out else (source.path for source in self.sources)
        return [path for path in paths if path.startswith(inside)]

    def makers_within(self, folder: str) -> list[str]:
        """Return the stages that make something in a folder, in topological order."""
        inside = "" if folder == "." else f"{folder.rstrip('/')}/"
        first = bisect_left(self._outs, inside)
        last = bisect_left(self._outs, f"{inside[:-1]}0") if inside else None  # "0" follows "/"
        makers = {self.makers[out] for out in self._outs[first:last]}
        return [name for name in self.stages if name in makers] if makers else []

    @cached_property
    def _outs(self) -> list[str]:
        return sorted(self.makers)


def _of_kind(stage: Stage, kind: Kind) -> list[Out]:
    return [out for out in stage.outs if out.kind == kind]
