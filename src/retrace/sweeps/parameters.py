"""The parameters that a sweep can vary: those that stages up to the objective's read.

With other values of a parameter, stages may read others: `models.${model}` in dvc.yaml. Then DVC
sets the value in a copy of dvc.yaml and its params files, and the copy is read.
"""

import posixpath
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from retrace.errors import ParamsError
from retrace.pipeline import dvc_files, dvc_overrides, loading, overrides, params_files
from retrace.pipeline.definition import PARAMS_YAML, Stage
from retrace.pipeline.overrides import Flat
from retrace.pipeline.workspace import Workspace

CONFIG = ".dvc/config"
REFERENCE = re.compile(r"\$\{\s*([^{}]+?)\s*\}")
CHOICE = re.compile(r"([\w.]+)\.\$\{\s*([\w.]+)\s*\}")  # models.${model}


class Resolved(NamedTuple):
    """The stages of a trial, for some values; what they read, and no stage makes."""

    stages: tuple[Stage, ...]
    params: Flat
    leaves: tuple[str, ...]


class Parameters:
    """The values of all params files by name, as `-S` takes them: lr, train.toml:lr, net.width.

    `targets` are the stages that a trial runs with those before them; none stands for all.
    """

    def __init__(self, workspace: Workspace, targets: Collection[str]) -> None:
        self.targets = tuple(targets)
        self._workspace = workspace
        declaring = dvc_files.find(workspace.root)
        used = loading.vars_files(workspace.root, declaring, workspace.pipeline)
        values = [PARAMS_YAML, *workspace.pipeline.params_files, *map(posixpath.normpath, used)]
        self._values = list(dict.fromkeys(values))
        self._declaring = [*declaring.pipelines, *declaring.sources, *declaring.ignores, CONFIG]
        texts = ((workspace.root / file).read_text("utf-8") for file in declaring.pipelines)
        self._text = "\n".join(texts)
        self._references = set(REFERENCE.findall(self._text))
        self._resolved: dict[str, Resolved] = {}
        self.base = self._read()

    def is_template(self, key: str) -> bool:
        """Return whether `${...}` in a dvc.yaml may use a parameter, so that stages change."""
        name = key.rpartition(":")[2]
        return any(
            f"{used}.".startswith(f"{name}.") or f"{name}.".startswith(f"{used}.")
            for used in self._references
        )

    def resolved(self, changes: Flat) -> Resolved:
        """Return the stages with these values. Raises RetraceError if DVC refuses them."""
        used = {key: value for key, value in changes.items() if self.is_template(key)}
        words = {key: overrides.literal(value) for key, value in sorted(used.items())}
        about = repr(words)
        if about not in self._resolved:
            self._resolved[about] = self._with(words) if words else self._of(self._workspace)
        return self._resolved[about]

    def is_read(self, key: str, changes: Flat) -> bool:
        """Return whether a stage reads a parameter, with these values of others."""
        read = self.resolved(changes).params
        return key in read or any(fnmatchcase(key, pattern) for pattern in read)

    def why_unread(self, key: str, changes: Flat) -> str:
        """Return why no stage reads a parameter."""
        name = key.rpartition(":")[2]
        for table, choice in CHOICE.findall(self._text):
            if name.startswith(f"{table}.") and choice in self.base:
                return f"{choice} is {(self.base | changes)[choice]}"
        return f"no stage{self._up_to} reads it"

    def known(self) -> list[str]:
        """Return the parameters that can be swept with the other values as they are."""
        read = self.resolved({}).params
        return [key for key in self.base if key in read or self.is_template(key)]

    def code(self, changes: Iterable[Flat]) -> dict[str, str | None]:
        """Return the hashes of each dvc.yaml, and of all leaves with these values."""
        files = self._workspace.pipeline.files
        leaves = [leaf for each in changes for leaf in self.resolved(each).leaves]
        return self._workspace.hashes(files) | self._workspace.leaf_hashes(leaves)

    @property
    def _up_to(self) -> str:
        return f" up to {', '.join(self.targets)}" if self.targets else ""

    def _with(self, words: Mapping[str, str]) -> Resolved:
        """Read the pipeline with the values that `-S KEY=WORD` sets."""
        by_file: dict[str, list[str]] = {}
        for key, text in words.items():
            file, name = split(key)
            by_file.setdefault(file, []).append(f"{name}={text}")
        with TemporaryDirectory() as name:
            folder = Path(name)
            self._copy_to(folder)
            for file, changed in by_file.items():
                dvc_overrides.set_params(folder / file, changed)
            return self._of(Workspace(folder))

    def _copy_to(self, folder: Path) -> None:
        """Copy what the stages and their parameters depend on, with each `wdir` as DVC wants it."""
        for stage in self._workspace.pipeline.stages.values():
            (folder / stage.folder).mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).parent.mkdir()
        for path in [*self._declaring, *self._values]:
            source = self._workspace.root / path
            if source.is_file():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, folder / path)

    def _read(self) -> Flat:
        """Return the values of all files."""
        values: Flat = {}
        for file in self._values:
            if (self._workspace.root / file).is_file():
                prefix = "" if file == PARAMS_YAML else f"{file}:"
                read = params_files.read(self._workspace.root / file)
                values |= overrides.flatten(read, prefix, keep_empty=True)
        return values

    def _of(self, workspace: Workspace) -> Resolved:
        pipeline = workspace.pipeline
        names = pipeline.ancestors(*(self.targets or pipeline.stages))
        stages = tuple(pipeline.stages[name] for name in names)
        leaves = [path for path, readers in pipeline.leaves.items() if set(readers) & set(names)]
        return Resolved(stages, workspace.params(*stages), tuple(leaves))


def split(key: str) -> tuple[str, str]:
    """Return the params file and the key in it: train.toml and lr of `train.toml:lr`."""
    file, _, name = key.rpartition(":")
    return file or PARAMS_YAML, name


def typed(key: str, value: Any, current: Any) -> Any:
    """Return a value with the type of the current one, if it has to have it. Raises ParamsError."""
    file, name = split(key)
    problem = f"{file}: {name} is {value!r}; should be"
    if isinstance(current, bool) and not isinstance(value, bool):
        raise ParamsError(f"{problem} true or false")
    is_number = isinstance(current, int | float) and not isinstance(current, bool)
    if is_number and (isinstance(value, str | bool)):
        kind = "number" if isinstance(current, float) else "integer"
        raise ParamsError(f"{problem} a valid {kind}, because it is {current} now")
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and isinstance(current, float) else value
