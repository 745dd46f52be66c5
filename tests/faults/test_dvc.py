"""Faults under DVC: killed trainings resume, a stage ends with its DVC, damage is refused."""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psutil
import pytest
import yaml
from repository import Clone

from faults.servers import until
from faults.stages import event_logs, find_runs
from retrace import event_log
from retrace.pipeline import hashing
from retrace.store import run_tags
from retrace.system import processes

WEIGHTS = "models/model.safetensors"
ROUNDS = int(os.environ.get("RETRACE_REPEAT", "2"))
DIES_S = 5.0  # in which a stage is gone whose DVC is

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("dvc")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return a repository in which the digits were trained once, without interruption."""
    edits = {
        "dataset: mnist": "dataset: digits",
        "epochs: 5": "epochs: 60",
        "threads: 2": "threads: 1",
    }
    clone = Clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("cache"), edits)
    clone.type("dvc repro")
    clone.commit("digits")
    return clone


def is_over(stage: processes.Identity) -> bool:
    return not processes.alive(stage)


def training(clone: Clone) -> dict[str, Any]:
    """Wait for some epochs of a training and return the first event of its event log."""

    def newest() -> list[event_log.Event]:
        read = [event_log.read(path) for path in event_logs(clone.path)]
        trainings = [events for events in read if events[0]["stage"] == "train"]
        return max(trainings, key=lambda events: events[0]["time"])

    def is_at_work() -> bool:
        return (
            not event_log.end_of(newest())
            and sum("val_loss" in event.get("values", {}) for event in newest()) > 3
        )

    until(is_at_work, what="some epochs")
    return newest()[0]


@contextmanager
def started(clone: Clone, command: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command; it has ended after the context."""
    with subprocess.Popen(
        command.split(),
        cwd=clone.path,
        env=clone.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as running:
        yield running


@pytest.mark.parametrize(
    "command",
    [
        "dvc repro --force --single-item train",
        "dvc exp run --force --single-item train -n here",
        "dvc exp run --temp --force --single-item train -n there",
    ],
)
def test_dvc_command_resumes_training(clone: Clone, command: str) -> None:
    weights = hashing.md5(clone.path / WEIGHTS)
    with started(clone, command) as running:
        os.kill(training(clone)["process"]["pid"], signal.SIGTERM)
    assert running.returncode != 0
    assert "resumed from step" in clone.type(command)
    name = command.rsplit(maxsplit=1)[-1]
    if name == "train":
        shown = "cat dvc.lock"
    else:
        shown = (
            f"git show $(git for-each-ref --format='%(objectname)' 'refs/exps/*/*/{name}'):dvc.lock"
        )
    lock = yaml.safe_load(clone.type(shown))
    assert weights in [out["md5"] for out in lock["stages"]["train"]["outs"]]
    clone.type("git checkout --quiet . && dvc checkout --quiet")


def test_queue_resumes_task(clone: Clone) -> None:
    queue = "dvc exp run --queue -S seed=5 -n queued train"
    clone.type(f"{queue} && dvc queue start > /dev/null 2>&1")
    os.kill(training(clone)["process"]["pid"], signal.SIGTERM)
    until(lambda: "Failed" in clone.queue(), 300, "the end of the task", every_s=5)
    clone.type("dvc queue remove queued")
    clone.type(f"{queue} && dvc queue start > /dev/null 2>&1")
    until(lambda: "Success" in clone.queue(), 300, "the end of the task", every_s=5)
    (run,) = [
        run
        for run in find_runs(f"sqlite:///{clone.path / 'mlflow.db'}", stage="train")
        if "retrace.resumed" in run.data.tags and run.data.params["seed"] == "5"
    ]
    assert run.info.status == "FINISHED"
    weights = run_tags.hashes(run, "outs")[str(WEIGHTS)]
    clone.type("dvc exp run --force --single-item -S seed=5 -n whole train")
    assert hashing.md5(clone.path / WEIGHTS) == weights
    clone.type("git checkout --quiet . && dvc checkout --quiet")


def test_reconcile_requeues_after_killed_worker(clone: Clone) -> None:
    clone.type("dvc exp run --queue -S seed=6 -n crashed train && dvc queue start > /dev/null 2>&1")
    start = training(clone)
    stage = psutil.Process(start["process"]["pid"])
    for above in stage.parents():
        if {"exec-run", "queue-worker"} & set(above.cmdline()):
            above.kill()
    until(partial(is_over, start["process"]), 30, "the end of the stage")
    assert "Running" in clone.queue()
    output = clone.type("retrace reconcile")
    assert "crashed: had no worker; it is in the queue again" in output
    assert "put back: 1 experiment; removed: 1 folder not in use" in output
    assert "put back: 0 experiments; removed: 0 folders" in clone.type("retrace reconcile")
    status = clone.queue()
    assert ("Queued" in status, "Running" in status, "Failed" in status) == (True, False, False)
    clone.type("dvc queue start > /dev/null 2>&1")
    until(
        lambda: re.search(r"\bcrashed .*Success", clone.queue()),
        300,
        "the end of the task",
        every_s=5,
    )
    (run,) = [
        run
        for run in find_runs(f"sqlite:///{clone.path / 'mlflow.db'}", stage="train")
        if run.data.params["seed"] == "6" and run.info.status == "FINISHED"
    ]
    assert "retrace.resumed" in run.data.tags
    assert not list((clone.path / ".dvc/tmp/exps").glob("tmp*"))


def test_stage_ends_with_its_dvc_and_resumes(clone: Clone) -> None:
    weights = hashing.md5(clone.path / WEIGHTS)
    command = "dvc repro --force --single-item train"
    for _ in range(ROUNDS):
        with started(clone, command) as running:
            stage = training(clone)["process"]
            running.kill()
            until(partial(is_over, stage), DIES_S, "the end of the stage", every_s=0.02)
    assert "resumed from step" in clone.type(command)
    assert hashing.md5(clone.path / WEIGHTS) == weights


def flip_bit(clone: Clone, path: str) -> None:
    """Flip a bit of the file and keep its modification time."""
    file = clone.path / path
    before = file.stat()
    file.chmod(0o644)
    with file.open("r+b") as opened:
        opened.seek(-9, os.SEEK_END)
        (byte,) = opened.read(1)
        opened.seek(-9, os.SEEK_END)
        opened.write(bytes([byte ^ 4]))
    file.chmod(before.st_mode)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("path", "stage"), [("data/processed/train.safetensors", "train"), (WEIGHTS, "evaluate")]
)
def test_flipped_bit_is_refused_and_repaired(clone: Clone, path: str, stage: str) -> None:
    assert "all files match dvc.lock" in clone.type("retrace verify --cache")
    good = hashing.md5(clone.path / path)
    flip_bit(clone, path)
    assert "up to date" in clone.type("dvc status"), "DVC is not expected to see it"
    output = clone.type(f"dvc repro --force --single-item {stage}", code=255)
    bad = hashing.md5(clone.path / path)
    assert f"{path}: damaged, or changed since " in output
    assert f"its MD5 is {bad}" in output
    assert good in output
    clone.type("dvc checkout --quiet")
    listed = clone.type("retrace verify --cache", code=1)
    assert f"{path}: its MD5 is {bad}, but dvc.lock records {good}" in listed
    (todo,) = [
        line.removeprefix("to repair: ") for line in listed.splitlines() if "to repair" in line
    ]
    assert path in shlex.split(todo)
    clone.type(todo)
    assert hashing.md5(clone.path / path) == good
    assert "all files match dvc.lock" in clone.type("retrace verify --cache")
