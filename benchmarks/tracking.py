"""Measure the cost of tracking: a metric call, a whole stage, many runs, a second `retrace sync`.

Run the real pipeline on the digits, in a temporary clone of the working tree under .retrace/.
Nothing else should run on the machine. Times that are compared are measured in turns.
"""

import json
import os
import sys
import time
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import stores
import table
from clones import Clone
from table import Figure

from retrace import errors, event_log
from retrace.errors import RetraceError
from retrace.event_log import Event
from retrace.tracking.run import Run

N = {
    "metric": 20_000,
    "many": 10_000,
    "stage": 5,
    "sync": 1,
}  # calls, runs, repetitions, pairs of syncs
N_TIMES = 20  # repetitions of a start or an upload
STAGES = ("preprocess", "train", "evaluate")
EPOCH = {
    "train_loss": 0.1234567,
    "train_accuracy": 0.9753086,
    "val_loss": 0.2345678,
    "val_accuracy": 0.9629629,
}
EVENT_LOGS = Path(".retrace/journal")
DEAD = "http://127.0.0.1:9"  # a port that no process listens on
SYNC = "from retrace.cli.main import sync; sync.sync()"
PARENTS = "tags.`retrace.key` LIKE '%'"


@cache
def digits(folder: Path) -> Clone:
    """Return the clone in `folder` in which all five stages have run, tracked."""
    clone = Clone(folder / "digits", "digits")
    clone.run("dvc", "repro", "--quiet")
    clone.commit()
    return clone


def metric(folder: Path, n_calls: int) -> list[Figure]:
    """Time `Run.log` with an epoch's four values, and the sync to the disk after it."""
    record = Run(folder, stage="train")
    calls = [_seconds(lambda step=step: record.log(EPOCH, step)) for step in range(n_calls)]
    syncs = []
    for step in range(min(n_calls, 200)):
        record.log(EPOCH, step)
        syncs.append(_seconds(record.sync))
    record.end("FINISHED")
    return [
        Figure("a metric call, median", 1e6 * median(calls), "µs", n_calls, target=20),
        Figure(
            "a metric call, 99th percentile",
            1e6 * sorted(calls)[n_calls * 99 // 100],
            "µs",
            n_calls,
        ),
        Figure("a sync after it, median", 1e6 * median(syncs), "µs", len(syncs)),
    ]


def stage(clone: Clone, name: str, n: int) -> list[Figure]:
    """Time a stage with and without tracking, in turns. Its inputs exist already."""
    commands = {"with": f"stages/{name}.py", "without": f"benchmarks/untracked.py {name}"}
    taken: dict[str, list[float]] = {how: [] for how in commands}
    for turn in range(n):
        for how in sorted(commands, reverse=turn % 2 == 0):
            taken[how].append(clone.seconds("python", *commands[how].split()))
    target = 1.0 if name == "train" else None
    middle = {how: median(each) for how, each in taken.items()}
    return [
        *(
            Figure(f"{name} on {clone.dataset}, {how} tracking", seconds, "s", n)
            for how, seconds in middle.items()
        ),
        Figure(
            f"tracking of {name} on {clone.dataset}",
            middle["with"] - middle["without"],
            "s",
            n,
            target,
        ),
    ]


def many(folder: Path, source: Path, n_runs: int, n_times: int = N_TIMES) -> list[Figure]:
    """Compare a store of `n_runs` runs with the store in `source`, in which the pipeline ran once.

    The event logs of `source` are uploaded to both.
    """
    from retrace.store import backend, tracking_uri

    few, lots = folder / "few", folder / "lots"
    for each in (few, lots):
        stores.copy(source / "mlflow.db", each / "mlflow.db")
    stores.grow(lots / "mlflow.db", n_runs)
    backend.tidy(tracking_uri.sqlite_uri(lots / "mlflow.db"))  # as at the end of every stage
    n_few, n_lots = (f"{stores.runs(each / 'mlflow.db'):,}" for each in (few, lots))
    measured = []
    for what, once in {
        **_starts(source),
        "the whole upload of a small event log": _upload(source),
    }.items():
        seconds: dict[Path, list[float]] = {few: [], lots: []}
        for turn in range(n_times + 1):
            for each in (few, lots):
                taken = once(each)
                if turn:  # the first opens the database
                    seconds[each].append(taken)
        small, large = median(seconds[few]), median(seconds[lots])
        target = 1.2 if what.startswith("starting") else None
        measured += [
            Figure(f"{what}, {n_few} runs in the store", 1000 * small, "ms", n_times),
            Figure(f"{what}, {n_lots} runs", 1000 * large, "ms", n_times),
            Figure(
                f"{what}, ratio of the second to the first", large / small, "times", n_times, target
            ),
        ]
    return measured + _tops(lots, n_times)


def _starts(source: Path) -> dict[str, Callable[[Path], float]]:
    """Return timers, in seconds, of starting a run: with its parent, or with an existing one."""
    from retrace.store import backend, runs

    first, later = _events(source, "download")[0], _events(source, "evaluate")[0]

    def start(folder: Path, key: str, event: Event) -> float:
        with _root(folder):
            client = backend.client()
            return _seconds(lambda: runs.pair(client, event | _own(key)))

    def joining(folder: Path) -> float:
        key = uuid.uuid4().hex
        start(folder, key, first)
        return start(folder, key, later)

    return {
        "starting a run and its parent": lambda folder: start(folder, uuid.uuid4().hex, first),
        "starting a run whose parent exists": joining,
    }


def _upload(source: Path) -> Callable[[Path], float]:
    """Return a timer, in seconds, of uploading evaluate's event log without its artifacts."""
    from retrace.store.upload import Upload

    events = _events(source, "evaluate")

    def upload(folder: Path) -> float:
        path = _event_log(folder, events, uuid.uuid4().hex)
        with _root(folder):
            return _seconds(Upload(path).advance)

    return upload


def _tops(folder: Path, n_times: int) -> list[Figure]:
    """Time listing the best runs, as the MLflow UI does: only experiments, and all runs."""
    from retrace.store import backend

    def listed(which: str) -> float:
        runs: list[Any] = []
        order = ["metrics.test_accuracy DESC"]
        taken = _seconds(
            lambda: runs.extend(client.search_runs(every, which, order_by=order, max_results=50))
        )
        accuracies = [
            run.data.metrics["test_accuracy"] for run in runs if "test_accuracy" in run.data.metrics
        ]
        assert accuracies == sorted(accuracies, reverse=True)
        return taken

    with _root(folder):
        client = backend.client()
        every = backend.experiments(client)
        lists = {
            "the top 50 experiments by test accuracy": PARENTS,
            "the top 50 runs by test accuracy": "",
        }
        times = {
            name: median(listed(which) for _ in range(n_times)) for name, which in lists.items()
        }
    return [Figure(name, seconds, "s", n_times, target=0.2) for name, seconds in times.items()]


def sync(clone: Clone) -> list[Figure]:
    """Count the rows that a first and a second sync change.

    Before the first sync: an outage, a killed stage and an experiment from DVC's cache.
    """
    clone.run("python", "stages/preprocess.py", MLFLOW_TRACKING_URI=DEAD)
    lost = event_log.read(event_log.pending(clone.path / EVENT_LOGS)[-1])
    # Without its end, like that of a killed stage.
    _event_log(clone.path, lost[:-1], lost[0]["key"])
    clone.run("dvc", "exp", "run", "--quiet", "--name", "cached")
    states = [stores.rows(clone.path / "mlflow.db")]
    for _ in range(2):
        clone.run("python", "-c", SYNC)
        states.append(stores.rows(clone.path / "mlflow.db"))
    first, second = (stores.changed(*pair) for pair in pairwise(states))
    if first == 0:
        raise RetraceError(
            "the first sync changed no row, so the second proves nothing; look at cli/sync.py"
        )
    return [
        Figure("rows before a second sync", states[1].total(), "rows", 1),
        Figure("rows after it", states[2].total(), "rows", 1),
        Figure("rows that the first sync changed", first, "rows", 1),
        Figure("rows that the second sync changed", second, "rows", 1, target=0),
    ]


def _events(source: Path, name: str) -> list[Event]:
    """Return the uploaded events of the stage `name` in the folder `source`."""
    event_logs = sorted((source / EVENT_LOGS / "uploaded").glob(f"*-{name}-*.jsonl"))
    if not event_logs:
        raise RetraceError(
            f"{source}: has no uploaded event log of {name}; its stages are not in MLflow"
        )
    return event_log.read(event_logs[0])


def _event_log(folder: Path, events: list[Event], key: str) -> Path:
    """Write a pending event log to `folder`, with these events in the experiment `key`."""
    own = events[0] | _own(key)
    path = folder / EVENT_LOGS / f"{own['id']}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(event) + "\n" for event in (own, *events[1:])), encoding="utf-8"
    )
    return path


def _own(key: str) -> Event:
    """Return the fields that turn an event log's start into a new one's, in experiment `key`."""
    return {"id": uuid.uuid4().hex, "key": key, "time": time.time_ns() // 1_000_000}


@contextmanager
def _root(folder: Path) -> Iterator[None]:
    """Use the store and the lock of `folder`."""
    before = {name: os.environ.pop(name, None) for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI")}
    os.environ["DVC_ROOT"] = str(folder)
    try:
        yield
    finally:
        del os.environ["DVC_ROOT"]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def parsed() -> Namespace:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("figure", nargs="?", choices=N, help="only this figure")
    parser.add_argument(
        "--n",
        type=int,
        help=f"number of repetitions: {', '.join(f'{name} {n:,}' for name, n in N.items())}",
    )
    parser.add_argument(
        "--real", action="store_true", help="stage: also train on MNIST, with params.yaml"
    )
    args = parser.parse_args()
    if args.n is not None and (args.figure is None or args.n < 1):
        parser.error(f"--n is {args.n}; should be at least 1, and needs the name of one figure")
    return args


def figures(folder: Path, name: str, n: int, *, real: bool) -> Iterator[Figure]:
    """Yield the figures called `name`, as soon as they are measured."""
    if name == "metric":
        yield from metric(folder, n)
    elif name == "many":
        yield from many(folder, digits(folder).path, n)
    elif name == "sync":
        yield from sync(digits(folder))
    else:
        for each in STAGES:
            yield from stage(digits(folder), each, n)
        if real:
            mnist = Clone(folder / "mnist", "mnist")
            mnist.run("dvc", "repro", "--quiet", "preprocess")
            yield from stage(mnist, "train", n)


def main() -> None:
    args = parsed()
    with table.place() as folder:
        names = [args.figure] if args.figure else N
        measured = (figures(folder, name, args.n or N[name], real=args.real) for name in names)
        sys.exit(table.show(chain.from_iterable(measured)))


if __name__ == "__main__":
    errors.run(main)
