"""Start the processes of one training, and start all of them again if one is killed.

The train stage launches itself. The process that DVC starts tracks the stage and supervises; it
starts the same command again for each rank. Rank 0 logs, saves checkpoints and writes the outputs.

    python stages/train.py          launcher: the run, the event log, the exit code
    ├── python stages/train.py      rank 0: its output is the launcher's
    ├── python stages/train.py      rank 1
    └── ...

torch.distributed's launcher does the work. It is not imported where one process trains.
"""

import json
import logging
import os
import signal
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import (
    RendezvousConnectionError,
    RendezvousError,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousTimeoutError,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import retrace
from lab.params import Train
from lab.training import processes, rank
from lab.training.nodes import Node
from retrace import checkpoint
from retrace.errors import RetraceError

RESTARTS = "RETRACE_RESTARTS"  # variable: how often all ranks are started again, after kills
# torchrun's own. What is killed that often, as for lack of memory, is killed the next time too.
MAX_RESTARTS = "3"
BACKEND = "retrace"
WAIT_S = 600  # for the other nodes
RESUME = "type the same command again: it resumes from the last checkpoint"


# NCCL sums in one order, whatever it measures at start.
NCCL = {
    "NCCL_ALGO": "allreduce:tree",
    "NCCL_PROTO": "Simple",
    "NCCL_MIN_NCHANNELS": "1",
    "NCCL_MAX_NCHANNELS": "1",
}


class ProcessFailed(SystemExit):
    """A process failed, and stderr says why. The text is for the tracked run."""

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.code = code


class Rendezvous(DynamicRendezvousHandler):
    """Where nodes meet before each start of their ranks. Node 0 has rank 0."""

    node: Node
    folder: Path  # of the ranks' reports and of a single node's stores
    n_starts = 0

    @classmethod
    def create(cls, given: RendezvousParameters, node: Node, folder: Path) -> Self:
        with processes.ended_by_signals() if node.rank else nullcontext():
            backend, store = create_backend(given)
        sizes = (given.min_nodes, given.max_nodes)
        rendezvous = cls.from_backend(given.run_id, store, backend, *sizes, given.local_addr)
        rendezvous.node = node
        rendezvous.folder = folder
        return rendezvous

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for all nodes. Raises RendezvousError instead of starting a defect again."""
        if _reports(self.folder):
            raise RendezvousError("a process has reported an error")
        if self.n_starts:
            state = "warning: a training process was killed or lost"
            print(f"{state}; all resume from the last checkpoint", file=sys.stderr, flush=True)
        self.n_starts += 1
        info = super().next_rendezvous()
        port = info.bootstrap_store_info and info.bootstrap_store_info.master_port
        is_single = self.node.count == 1
        store = f"file://{self.folder}/ranks-{self.n_starts}"
        os.environ[processes.STORE] = store if is_single else f"tcp://{self.node.host}:{port}"
        return info


def launch(p: Train, node: Node) -> None:
    """Train in `processes` processes, on this node in its share of them.

    Exits as the rank that failed first. Raises RetraceError for invalid environment variables.
    """
    max_restarts = n_restarts()
    with (
        retrace.stage("train") if node.rank == 0 else nullcontext(),
        tempfile.TemporaryDirectory(prefix="retrace-ranks-") as name,
    ):
        folder = Path(name)
        os.environ |= _variables(p, node)
        logging.disable()  # torch.distributed's lines on what is said here in one
        rendezvous_handler_registry.register(
            BACKEND, lambda given: Rendezvous.create(given, node, folder)
        )
        try:
            elastic_launch(_config(p, node, folder, max_restarts), sys.executable)(
                *sys.orig_argv[1:]
            )
        except (ChildFailedError, RendezvousError, DistError) as error:
            raise _failed(error, p, node, folder) from None


def _config(p: Train, node: Node, folder: Path, max_restarts: int) -> LaunchConfig:
    n_processes = node.n_processes(p.processes)
    first = 1 if node.rank == 0 else 0  # rank 0 writes to the terminal
    return LaunchConfig(
        min_nodes=node.count,
        max_nodes=node.count,
        nproc_per_node=n_processes,
        # Launchers of different trainings never meet.
        run_id=checkpoint.fingerprint(p.model_dump_json()),
        rdzv_backend=BACKEND,
        rdzv_endpoint=f"{node.host}:{node.port}" if node.count > 1 else f"{folder}/nodes",
        rdzv_configs={
            "join_timeout": WAIT_S,
            "read_timeout": WAIT_S,
            "store_type": "tcp" if node.count > 1 else "file",
            "is_host": node.rank == 0,
        },
        local_addr=f"{node.rank:06}",  # torch numbers nodes in this order
        max_restarts=max_restarts,
        logs_specs=DefaultLogsSpecs(
            str(folder), redirects=dict.fromkeys(range(first, n_processes), Std.ALL)
        ),
        signals_to_handle="",  # retrace.errors has them
    )


def _variables(p: Train, node: Node) -> dict[str, str]:
    """Return the environment variables of the ranks."""
    variables = NCCL | {
        rank.LAUNCHER: str(os.getpid()),
        "OMP_NUM_THREADS": str(p.threads),
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # no warnings of lost connections
        # Keys of the ranks' last start would be in a shared store (pytorch/pytorch#135712).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    if node.count == 1:  # no port of theirs is open to other machines
        variables["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    return variables


def _failed(error: Exception, p: Train, node: Node, folder: Path) -> ProcessFailed:
    """Print why the training failed, and return the exit."""
    reports = _reports(folder)
    if reports:
        first = min(reports, key=lambda report: report["timestamp"])
        print(first["text"], file=sys.stderr)
        return ProcessFailed(first["message"], first["code"])
    failures = error.failures if isinstance(error, ChildFailedError) else {}
    own = {number: each for number, each in failures.items() if each.exitcode != rank.PEER_LOST}
    if not own:
        reason = _lost(error, node)
        code = 1
    else:
        number, failure = min(own.items(), key=lambda item: item[1].exitcode == rank.STOPPED)
        print(_stderr(folder, failure), end="", file=sys.stderr)
        state, code = _state(failure)
        reason = f"process {number} of {p.processes} {state}; {RESUME}"
    print(reason, file=sys.stderr)
    return ProcessFailed(reason, code)


def _lost(error: Exception, node: Node) -> str:
    """Return how this node lost the others."""
    if isinstance(error, RendezvousTimeoutError):
        state = f"not all {node.count} nodes have joined with these parameters in {WAIT_S} s"
        return f"{state}; start the stage on each, with the same params.yaml"
    if isinstance(error, RendezvousConnectionError):
        return f"node 0 does not answer at {node.host}:{node.port}; {RESUME}, on each node"
    return f"the training has ended on another node, which says why; {RESUME}, on each node"


def _state(failure: ProcessFailure) -> tuple[str, int]:
    """Return how a process ended, and the exit code of that."""
    if failure.exitcode == -signal.SIGKILL:
        return "was killed (SIGKILL), perhaps for lack of memory", 128 + signal.SIGKILL
    if failure.exitcode < 0:
        return f"was killed ({failure.signal_name()})", 128 - failure.exitcode
    return f"ended with exit code {failure.exitcode}", failure.exitcode


def _reports(folder: Path) -> list[dict[str, Any]]:
    """Return the errors that ranks of this node have reported."""
    return [json.loads(path.read_text("utf-8")) for path in folder.rglob("error.json")]


def _stderr(folder: Path, failure: ProcessFailure) -> str:
    """Return what a process wrote to stderr in its last attempt, unless it went to the terminal."""
    logs = sorted(folder.rglob(f"{failure.local_rank}/stderr.log"))
    return logs[-1].read_text("utf-8", errors="replace") if logs else ""


def n_restarts() -> int:
    value = os.environ.get(RESTARTS, MAX_RESTARTS)
    if not value.isdecimal():
        raise RetraceError(f"{RESTARTS} is {value!r}; should be a number, such as {RESTARTS}=0")
    return int(value)
