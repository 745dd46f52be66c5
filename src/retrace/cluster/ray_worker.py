"""What Ray's workers do: run a task, on its first machine and on its others.

They only start `python -m retrace.cluster.task`, or `node_stage`, in the environment in which their
machine joined the cluster, and pass it JSON.

    run_task        machine 0: the experiment    dvc exp run -> its stages
    └── run_node    machines 1, 2, ...           one stage of it, which all compute together

Ray ends each `run_node` with its `run_task`, and starts one again whose machine died.
"""

import json
import os
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any

import psutil

from retrace.cluster import node_stage
from retrace.cluster.task import Task
from retrace.system import isolated

RETRIES = 20  # of a task whose machine died; not of a task that failed
ENDS_S = 90.0  # for a task to end on SIGTERM
FAILS_S = 30.0  # for a task to end by itself after it failed on another machine
POLL_S = 0.2
OUTPUT = 20_000  # characters of a task's output that its result keeps
PORTS = range(20_000, 30_000)  # above those of Ray's workers, below Linux's ephemeral ports


def run_task(text: str, queue: Any, number: int) -> tuple[int, float, str]:
    """Run a task in a process of its own; return its exit code, seconds and last output.

    Ray cancels it by a KeyboardInterrupt in this process.
    """
    queue.begin.remote(number, socket.gethostname())
    began = time.monotonic()
    task = Task.from_json(json.loads(text))
    env = environment(task.gpus)
    others: list[Any] = []
    with tempfile.TemporaryFile() as log:
        if task.nodes > 1:
            address = _address()
            env |= node_stage.variables(address, task.nodes, 0)
            others = _start_others(text, queue, number, address)
        try:
            with _started("task", text, env, log) as process:
                _wait(process, others)
        finally:
            _end(others)
        output = "".join([*_failures(others), _tail(log)])
        return process.returncode, time.monotonic() - began, output


def run_node(text: str, queue: Any, number: int, address: str, rank: int) -> tuple[int, str]:
    """Run a task's stage on machine `rank` of the task; return its exit code and last output."""
    host = socket.gethostname()
    queue.begin.remote(number, host, rank)
    task = Task.from_json(json.loads(text))
    env = environment(task.gpus) | node_stage.variables(address, task.nodes, rank)
    with tempfile.TemporaryFile() as log:
        with _started("node_stage", text, env, log) as process:
            _wait(process, [])
        return process.returncode, f"machine {rank} of {task.nodes}, {host}:\n{_tail(log)}"


def environment(gpus: int) -> dict[str, str]:
    """Return the environment in which this machine joined the cluster, and Ray's choice of GPUs.

    Ray sets variables in a worker, such as OMP_NUM_THREADS, which would change what a stage
    computes. Without GPUs, it would leave all of them visible.
    """
    raylet = psutil.Process().parent()
    joined = raylet.environ() if raylet else dict(os.environ)
    kept = {name: value for name, value in joined.items() if not name.startswith("RAY_")}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if gpus else ""
    return kept | {"CUDA_VISIBLE_DEVICES": visible}


@contextmanager
def _started(
    module: str, text: str, env: Mapping[str, str], log: IO[bytes]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a module of this package, with a task as its stdin; at the end, end it."""
    process = subprocess.Popen(
        [*isolated.python(f"retrace.cluster.{module}"), "-", "0"],
        env=env,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        assert process.stdin  # noqa: S101 - a pipe
        process.stdin.write(f"[{text}]".encode())
        process.stdin.close()
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(ENDS_S)


def _wait(process: "subprocess.Popen[bytes]", others: list[Any]) -> None:
    """Wait until a process ends, or until FAILS_S after its task failed on another machine."""
    until = float("inf")
    while process.poll() is None and time.monotonic() < until:
        time.sleep(POLL_S)  # an interrupt does not reach a wait in C
        if _failures(others):
            until = min(until, time.monotonic() + FAILS_S)


def _start_others(text: str, queue: Any, number: int, address: str) -> list[Any]:
    """Start a task's stage on all machines of its placement group but this one."""
    import ray
    from ray.util import get_current_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    task = Task.from_json(json.loads(text))
    group: Any = get_current_placement_group()
    work: Any = ray.remote(run_node)
    return [
        work.options(
            num_cpus=task.cpus,
            num_gpus=task.gpus,
            max_retries=RETRIES,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, rank),
        ).remote(text, queue, number, address, rank)
        for rank in range(1, task.nodes)
    ]


def _failures(others: list[Any]) -> list[str]:
    """Return what the machines printed on which a task has failed."""
    import ray
    from ray.exceptions import RayError, TaskCancelledError

    failures: list[str] = []
    ended, _ = ray.wait(others, num_returns=len(others), timeout=0) if others else ([], [])
    for result in ended:
        try:
            code, output = ray.get(result)
        except TaskCancelledError:
            continue
        except RayError as error:
            code, output = 1, f"{error}\n"
        if code:
            failures.append(output)
    return failures


def _end(others: list[Any]) -> None:
    """End a task's stage on other machines, and wait until it has ended."""
    import ray

    for result in others:
        ray.cancel(result)
    if others:
        ray.wait(others, num_returns=len(others), timeout=ENDS_S)


def _address() -> str:
    """Return this machine's address in the cluster, with a free port."""
    from ray.util import get_node_ip_address

    for port in random.sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return f"{get_node_ip_address()}:{port}"
    raise OSError(f"no free port from {PORTS[0]} to {PORTS[-1]}")


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - OUTPUT))
    return log.read().decode(errors="replace")
