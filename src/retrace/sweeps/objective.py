"""What a sweep optimizes: a metric, its direction, and the stages that a trial runs for it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from retrace.errors import ParamsError
from retrace.pipeline import metrics
from retrace.pipeline.definition import Out, Stage
from retrace.pipeline.metrics import Direction
from retrace.pipeline.workspace import Workspace
from retrace.settings import Settings
from retrace.tracking import curves, results
from retrace.tracking.growing_table import JSON, SEPARATED

# `test` as a word: test_loss, eval/test.acc, testAccuracy, testing loss; not latest, contest.
TEST = re.compile(r"((?<![A-Za-z])[Tt]est|Test|TEST)(ing|set|s)?(?![a-z])")
MAX_NAMED = 12  # metrics in a message


@dataclass(frozen=True)
class Objective:
    """A metric, its direction, and DVC's targets.

    The targets are the stages that make the metric; none, for the whole pipeline, if that is not
    known because nothing was made here yet.
    """

    metric: str
    direction: Direction
    targets: tuple[str, ...] = ()


def choose(
    workspace: Workspace, settings: Settings, metric: str | None, direction: Direction | None
) -> Objective:
    """Return the objective, by default that of the settings.

    Raises ParamsError if a sweep must not optimize the metric, or if no stage makes it.
    """
    known = makers(workspace)
    primary = settings.metrics.primary if settings.metrics else None
    name = metric or settings.sweep.metric or primary
    if name is None:
        raise ParamsError(f"--metric is missing; {_allowed(known)}")
    if TEST.search(name):
        subject = f"--metric is {name!r}" if metric else f"the metric of the settings is {name!r}"
        why = "selecting parameters on test data would bias the test metrics"
        raise ParamsError(f"{subject}, and {why}; {_allowed(known)}")
    if name not in known and not _is_unmade(workspace):
        raise ParamsError(f"--metric is {name!r}, which no stage makes; {_allowed(known)}")
    minimized = settings.metrics.minimize if settings.metrics else ()
    by_name = "minimize" if name in minimized else metrics.direction(name)
    maker = known.get(name)
    return Objective(name, direction or by_name, (maker,) if maker else ())


def makers(workspace: Workspace) -> dict[str, str | None]:
    """Return the stage that makes each metric that files of the work tree have.

    It is None for a file that no stage declares. Metrics files count before curves.
    """
    return dict(_of_curves(workspace)) | dict(_of_files(workspace))


def own_name(metric: str, stage: str) -> str | None:
    """Return the name that a metric of the experiment has in a stage's own run, if it can be its.

    Stages of `foreach`, for example, have their name before the metric: `fit@a/loss`.
    """
    prefix = Stage(stage, ()).metrics_prefix
    return metric.removeprefix(prefix) if metric.startswith(prefix) else None


def _of_files(workspace: Workspace) -> Iterator[tuple[str, str | None]]:
    """Yield each metric of the metrics files with its stage; names are as in Workspace.metrics."""
    pipeline = workspace.pipeline
    files: dict[str, list[Path]] = {}
    for file in pipeline.metrics_files:
        exact = pipeline.makers.get(file)
        prefix = pipeline.stages[exact].metrics_prefix if exact else ""
        files.setdefault(prefix, []).append(workspace.root / file)
    for prefix, paths in files.items():
        owned = {path: metrics.read_all([path]).numbers for path in paths}
        for name in metrics.read_all(paths).numbers:
            owner = next((path for path in paths if _has(path, owned[path], name)), None)
            if owner:
                file = owner.relative_to(workspace.root).as_posix()
                yield f"{prefix}{name}", pipeline.maker(file)


def _has(path: Path, numbers: Iterable[str], name: str) -> bool:
    """Return whether a metric is of this file; a key of several files has a part of the path."""
    stem = path.with_suffix("").as_posix()
    return name in numbers or any(
        name.endswith(f"/{key}") and name.removesuffix(f"/{key}") in stem for key in numbers
    )


def _of_curves(workspace: Workspace) -> Iterator[tuple[str, str | None]]:
    """Yield each metric that has a value for each step, with the last stage that makes it."""
    for stage in workspace.pipeline.stages.values():
        files = results.files(workspace, stage)
        for name in curves.read_all(workspace.root / file for file in files):
            yield f"{stage.metrics_prefix}{name}", stage.name


def _is_unmade(workspace: Workspace) -> bool:
    """Return whether a metrics file is not in the work tree, so that its metrics are not known.

    Without metrics files, whether a table is missing that may have curves.
    """
    pipeline = workspace.pipeline
    outs = [out for stage in pipeline.stages.values() for out in stage.outs]
    files = pipeline.metrics_files or [out.path for out in outs if _may_have_curves(out)]
    return any(not (workspace.root / file).exists() for file in files)


def _may_have_curves(out: Out) -> bool:
    return out.kind == "plot" or Path(out.path).suffix.lower() in ("", *SEPARATED, *JSON)


def _allowed(known: Mapping[str, object]) -> str:
    """Return what to type, with the metrics that a sweep may optimize."""
    names = sorted(name for name in known if not TEST.search(name))
    if not names:
        return "type --metric NAME; `dvc repro` makes the metrics files that show which there are"
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"should be one of {', '.join(names[:MAX_NAMED])}{more}: --metric NAME"
