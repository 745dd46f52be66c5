"""The tags by which runs are found, and those that say which files a run read and made.

MLflow's page offers each tag of any run as a column, except those whose names begin with `mlflow.`.
So the tags that nobody compares experiments by begin with `mlflow.retrace.`. In older versions they
began with `retrace.`, and each file had a tag with its hash: `dvc.deps.<path>`, `dvc.outs.<path>`.
Such runs are still found and read.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, count, islice, takewhile

from mlflow import MlflowClient
from mlflow.entities import Run

from retrace.store import backend, filters, names

HIDDEN = "mlflow.retrace."
PREFIXES = (HIDDEN, "retrace.")  # of this version and of older ones
MADE = "made."  # with a hash appended: the path of a file or folder that the run made
CACHED = "retrace.cached."  # with a stage appended: the run of another experiment that made it
READ = "read."  # the same for data that it read
MAX_CONDITIONS = 5  # of a query: each costs a join
MAX_FILES = 200  # with a tag of their own, of those in folders; `retrace/lineage.json` has all


def hidden(name: str) -> str:
    """Return the name of a tag that MLflow's page does not offer as a column."""
    return f"{HIDDEN}{name}"


def value(tags: Mapping[str, str], name: str) -> str | None:
    """Return the value of the hidden tag `name`; None if the run does not have it."""
    keys = [names.encode(f"{prefix}{name}") for prefix in PREFIXES]
    return next((tags[key] for key in keys if key in tags), None)


def stage_run(tags: Mapping[str, str], stage: str) -> str | None:
    """Return the id of an experiment's own run of a stage, by the tags of its parent run."""
    return value(tags, f"run.{stage}")


def cached_run(tags: Mapping[str, str], stage: str) -> str | None:
    """Return the id of another experiment's run of a stage, by the tags of a parent run."""
    return tags.get(names.encode(f"{CACHED}{stage}"))


def linked_run(tags: Mapping[str, str], stage: str) -> str | None:
    """Return the id of the run whose results of a stage an experiment has.

    If it has both, its own run is newer and did not finish, so the cached one counts.
    """
    return cached_run(tags, stage) or stage_run(tags, stage)


def linked_runs(tags: Mapping[str, str]) -> set[str]:
    """Return the ids of all runs of stages that an experiment's run is linked to."""
    prefixes = (*(f"{prefix}run." for prefix in PREFIXES), CACHED)
    return {text for tag, text in tags.items() if tag.startswith(prefixes)}


def find(
    client: MlflowClient, experiments: list[str], name: str, text: str, also: str = ""
) -> Run | None:
    """Return the oldest run whose hidden tag `name` has this value, and that matches `also`."""
    runs = with_value(client, experiments, name, text, (also,) if also else ())
    return next(iter(runs), None)


def with_value(
    client: MlflowClient, experiments: list[str], name: str, text: str, also: Iterable[str] = ()
) -> list[Run]:
    """Return the runs whose hidden tag `name` has this value, the oldest first.

    They match the conditions `also`.
    """
    matching: list[Run] = []
    for prefix in PREFIXES:
        condition = filters.equals(filters.tag(f"{prefix}{name}"), text)
        matching += backend.search_runs(client, experiments, " and ".join([*also, condition]))
    return sorted(matching, key=_start_time)


def of_deps(deps: Mapping[str, str], data: Iterable[str]) -> dict[str, str]:
    """Return the tags of a run that reads these files, by path their hashes; some are `data`."""
    tags = {hidden(f"{READ}{deps[path]}"): path for path in data if path in deps}
    return tags | parts(hidden("deps"), json.dumps(deps))


def of_outs(outs: Mapping[str, str], files: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run that made these outputs; `files` are those in folders."""
    shown = dict(islice(files.items(), MAX_FILES)) | dict(outs)
    tags = {hidden(f"{MADE}{md5}"): path for path, md5 in shown.items()}
    return tags | parts(hidden("outs"), json.dumps(outs))


def hashes(run: Run, kind: str) -> dict[str, str]:
    """Return the MD5 by path of the run's `deps` or `outs`."""
    text = joined(run.data.tags, hidden(kind))
    if text:
        return json.loads(text)
    return dict(_named(run.data.tags, f"dvc.{kind}."))


def of_lost(lost: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that say what could not be recorded with a run, and why."""
    return parts(hidden("lost"), json.dumps(lost))


def lost(run: Run) -> dict[str, str]:
    """Return what could not be recorded with a run, and why."""
    return json.loads(joined(run.data.tags, hidden("lost")) or "{}")


def made(run: Run) -> dict[str, str]:
    """Return the path by MD5 of what the run made, files in folders included, if they are few."""
    tags = run.data.tags
    return dict(chain.from_iterable(_named(tags, f"{prefix}{MADE}") for prefix in PREFIXES))


def makers(
    client: MlflowClient, experiments: list[str], md5s: Collection[str], also: Iterable[str] = ()
) -> list[Run]:
    """Return the runs that made files or folders with all these MD5s, the oldest first.

    They match the conditions `also`.
    """
    matching: list[Run] = []
    for prefix in PREFIXES if md5s else ():
        tags = [f"{prefix}{MADE}{md5}" for md5 in md5s]
        conditions = [*also, *map(filters.exists, tags[:MAX_CONDITIONS])]
        runs = backend.search_runs(client, experiments, " and ".join(conditions))
        wanted = set(map(names.encode, tags))
        matching += [run for run in runs if wanted <= run.data.tags.keys()]
    return sorted(matching, key=_start_time)


def readers(
    client: MlflowClient, experiments: list[str], path: str, md5: str, also: Iterable[str] = ()
) -> list[Run]:
    """Return the runs that read the data `path` with this MD5, the oldest first."""
    old = filters.equals(filters.tag(f"dvc.deps.{path}"), md5)
    matching: list[Run] = []
    for condition in (filters.exists(hidden(f"{READ}{md5}")), old):
        runs = backend.search_runs(client, experiments, " and ".join([*also, condition]))
        matching += [run for run in runs if hashes(run, "deps").get(path) == md5]
    return sorted(matching, key=_start_time)


def parts(name: str, text: str) -> dict[str, str]:
    """Return the tags that keep a text of any length: `name`, then with .2, .3 and so on."""
    pieces = [text[start : start + names.MAX_TAG] for start in range(0, len(text), names.MAX_TAG)]
    return {_part(name, number): piece for number, piece in enumerate(pieces, 1)}


def joined(tags: Mapping[str, str], name: str) -> str:
    """Return the text that `parts` was given; nothing if the run does not have it."""
    pieces = (tags.get(_part(name, number)) for number in count(1))
    return "".join(filter(None, takewhile(lambda piece: piece is not None, pieces)))


def _part(name: str, number: int) -> str:
    return name if number == 1 else f"{name}.{number}"


def _named(tags: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the rest of the name and the value of each tag that begins with `prefix`."""
    for tag, text in tags.items():
        if tag.startswith(prefix):
            yield names.decode(tag, tags).removeprefix(prefix), text


def _start_time(run: Run) -> int:
    return run.info.start_time
