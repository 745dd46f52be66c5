"""Tasks on a Ray cluster: an actor queues them and knows the state of each; a worker runs one.

The actor belongs to the command that started it and ends with it, or it is detached. A task whose
machine dies is queued again by Ray. A task of several machines gets them from a placement group.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

from retrace import errors
from retrace.cluster import nodes, ray_worker
from retrace.cluster.ray_worker import ENDS_S, RETRIES
from retrace.cluster.task import Task
from retrace.errors import RetraceError

NAMESPACE = "retrace"
CONNECT_S = {"RAY_NUM_REDIS_GET_RETRIES": "5"}  # Ray tries to connect once a second
HEAD = "node:__internal_head__"  # a resource that only the first machine has
STDERR = 2
ANSWERS_S = 1.0  # for the queue to answer
THREADS = 4  # of the actor, so that it answers while it submits

Status = Literal["waiting", "running", "done", "failed", "cancelled"]


class State(NamedTuple):
    """The state of a task."""

    status: Status
    node: str = ""  # name of the machine, or names
    since: float = 0.0  # seconds since 1970: when it began to run
    attempts: int = 0
    seconds: float = 0.0  # that it took
    output: str = ""  # the end of what it printed

    @property
    def has_ended(self) -> bool:
        return self.status not in ("waiting", "running")


@contextmanager
def connected() -> Iterator[None]:
    """Connect this process to the cluster of this machine. Raises RetraceError if that fails.

    Ray reads its variables when it is imported, so it is imported in functions.
    """
    address = nodes.address()
    os.environ.update(nodes.authenticated() | CONNECT_S)
    import ray
    from ray.exceptions import RayError

    try:
        with _silenced():
            ray.init(
                address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.CRITICAL
            )
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        refused = f"the cluster {address} does not answer, or refuses the token"
        raise RetraceError(f"{refused}: {reason}") from None
    errors.listen()  # Ray has set handlers of its own
    try:
        yield
    finally:
        with _silenced():
            ray.shutdown()


@contextmanager
def _silenced() -> Iterator[None]:
    """Discard what Ray's library, which is no Python, writes to stderr."""
    sys.stderr.flush()
    kept = os.dup(STDERR)
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, STDERR)
        os.close(nothing)
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)


def machines() -> list[dict[str, Any]]:
    """Return the cluster's nodes that are alive: host, address, and what they have."""
    import ray

    return [
        {
            "host": node["NodeManagerHostname"],
            "address": node["NodeManagerAddress"],
            "cpus": int(node["Resources"].get("CPU", 0)),
            "gpus": int(node["Resources"].get("GPU", 0)),
        }
        for node in ray.nodes()
        if node["Alive"]
    ]


def free() -> dict[str, float]:
    """Return the CPUs and GPUs that no task uses."""
    import ray

    resources = ray.available_resources()
    return {"cpus": resources.get("CPU", 0.0), "gpus": resources.get("GPU", 0.0)}


class Queue:
    """A queue of tasks on the cluster. With `name` it is detached, and found again by its name."""

    def __init__(self, tasks: Sequence[Task], name: str | None = None) -> None:
        import ray

        options: dict[str, Any] = {
            "num_cpus": 0,
            "max_concurrency": THREADS,
            "max_restarts": RETRIES,
            "max_task_retries": RETRIES,
            "resources": {HEAD: 0.001},  # a cluster does not outlive its first machine
        }
        if name:
            options |= {"name": name, "lifetime": "detached", "get_if_exists": True}
        texts = [json.dumps(asdict(task)) for task in tasks]
        self._actor: Any = ray.remote(_Queue).options(**options).remote(texts)

    def states(self) -> list[State]:
        """Return the state of each task.

        Raises HeadLostError if the cluster's first machine does not answer, and RetraceError if the
        queue is gone.
        """
        import ray
        from ray.exceptions import RayError

        answer = self._actor.states.remote()
        while not ray.wait([answer], timeout=ANSWERS_S)[0]:
            nodes.check_head()  # Ray itself waits for it, and then ends this process
        try:
            return [State(*values) for values in ray.get(answer)]
        except RayError as error:
            reason = " ".join(str(error).split())[:300]
            raise RetraceError(f"the cluster lost the queue: {reason}") from None

    def cancel(self) -> None:
        """End all tasks; those that run save their state first. Forget the queue."""
        import ray
        from ray.exceptions import RayError

        with suppress(RayError):
            ray.get(self._actor.cancel.remote(), timeout=ENDS_S)
        self.forget()

    def forget(self) -> None:
        """End the actor."""
        import ray
        from ray.exceptions import RayError

        with suppress(RayError):
            ray.kill(self._actor)


def find(name: str) -> bool:
    """Return whether there is a detached queue of this name."""
    import ray

    return name in ray.util.list_named_actors()


def detached() -> dict[str, list[State]]:
    """Return the states of the tasks of each detached queue, by its name."""
    import ray

    names = ray.util.list_named_actors()
    states = ray.get([ray.get_actor(name).states.remote() for name in names])
    return {
        name: [State(*each) for each in values] for name, values in zip(names, states, strict=True)
    }


class _Queue:
    """The actor: it submits the tasks, whose owner it is, and is told when one begins."""

    def __init__(self, texts: list[str]) -> None:
        self._begun = [State("waiting") for _ in texts]
        self._machines: list[dict[int, str]] = [{} for _ in texts]
        self._groups: dict[Any, Any] = {}  # of the tasks that need several machines, by result
        self._results = [self._submit(text, number) for number, text in enumerate(texts)]
        threading.Thread(target=self._release, args=(self._groups,), daemon=True).start()

    def _submit(self, text: str, number: int) -> Any:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        task = Task.from_json(json.loads(text))
        options: dict[str, Any] = {
            "num_cpus": task.cpus,
            "num_gpus": task.gpus,
            "max_retries": RETRIES,
        }
        context = ray.get_runtime_context()
        group = None
        if task.nodes > 1:
            group = _machines_of(task, f"{context.get_actor_id()}-{number}")
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, 0)
        work: Any = ray.remote(ray_worker.run_task)
        result = work.options(**options).remote(text, context.current_actor, number)
        if group:
            self._groups[result] = group
        return result

    def _release(self, groups: dict[Any, Any]) -> None:
        """Give back the machines of each task that has ended."""
        import ray
        from ray.util import remove_placement_group

        left = dict(groups)
        while left:
            (ended,), _ = ray.wait(list(left))
            remove_placement_group(left.pop(ended))

    def begin(self, number: int, machine: str, rank: int = 0) -> None:
        """Note that a task begins on its first machine, or on another one."""
        if rank == 0:
            attempts = self._begun[number].attempts + 1
            self._begun[number] = State("running", "", time.time(), attempts)
            self._machines[number].clear()
        machines = self._machines[number]
        machines[rank] = machine
        self._begun[number] = self._begun[number]._replace(node=", ".join(machines.values()))

    def states(self) -> list[tuple[Any, ...]]:
        """Return the state of each task."""
        import ray

        ended, _ = ray.wait(self._results, num_returns=len(self._results), timeout=0)
        over = set(ended)
        return [
            tuple(self._end(number) if result in over else self._begun[number])
            for number, result in enumerate(self._results)
        ]

    def cancel(self) -> None:
        """End all tasks, and wait until they have ended."""
        import ray
        from ray.exceptions import RayError

        for result in self._results:
            with suppress(RayError):
                ray.cancel(result)
        ray.wait(self._results, num_returns=len(self._results), timeout=ENDS_S)

    def _end(self, number: int) -> State:
        import ray
        from ray.exceptions import RayError, TaskCancelledError

        begun = self._begun[number]
        if begun.status in ("waiting", "running"):
            try:
                code, seconds, output = ray.get(self._results[number])
                status: Status = "failed" if code else "done"
            except TaskCancelledError:
                status, seconds, output = "cancelled", 0.0, ""
            except RayError as error:
                status, seconds, output = "failed", 0.0, str(error)
            begun = begun._replace(status=status, seconds=seconds, output=output)
            self._begun[number] = begun
        return begun


def _machines_of(task: Task, name: str) -> Any:
    """Reserve as many machines as a task needs; if the actor is restarted, those that it has."""
    from ray.util import get_placement_group, placement_group

    with suppress(ValueError):
        return get_placement_group(name)
    sizes = {"CPU": task.cpus, "GPU": task.gpus}
    bundle = {resource: float(size) for resource, size in sizes.items() if size}
    return placement_group([bundle] * task.nodes, strategy="STRICT_SPREAD", name=name)
