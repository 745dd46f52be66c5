"""The machines of one training: how many there are, which one this is, where they meet.

The train stage is started once on each node. Three variables describe the node:

    RETRACE_RENDEZVOUS=node0:29400  address of node 0, and a free port there
    RETRACE_NODES=2                 how many nodes there are
    RETRACE_NODE=1                  which one this is, from 0

Below srun they are read from Slurm's variables, if there is more than one process: each task is a
node. Without them there is one node.
"""

import os
import re
import sys
from dataclasses import dataclass

from retrace.errors import RetraceError

ADDRESS = "RETRACE_RENDEZVOUS"
COUNT = "RETRACE_NODES"
RANK = "RETRACE_NODE"
EXAMPLE = f"such as {ADDRESS}=192.168.0.10:29400 {COUNT}=2 {RANK}=0"
PORTS = range(20_000, 30_000)  # below Linux's ephemeral ports


@dataclass(frozen=True)
class Node:
    """A machine of a training. Node 0 tracks the stage and writes its outputs."""

    rank: int = 0
    count: int = 1
    host: str = ""  # of node 0
    port: int = 0

    def n_processes(self, processes: int) -> int:
        """Return how many of the training's processes run here."""
        return processes // self.count + (self.rank < processes % self.count)


def this(processes: int) -> Node:
    """Return the node of this process. Raises RetraceError for invalid variables.

    A Slurm job of several nodes whose command does not begin with srun is a warning on stderr.
    """
    # srun may also start several trainings, each of one process.
    slurm = os.environ if processes > 1 and "SLURM_STEP_NUM_TASKS" in os.environ else {}
    count = _number(COUNT, os.environ.get(COUNT) or slurm.get("SLURM_STEP_NUM_TASKS", "1"))
    n_in_job = os.environ.get("SLURM_JOB_NUM_NODES", "1")
    if count <= 1:
        if processes > 1 and not slurm and n_in_job != "1":
            state = f"warning: this Slurm job has {n_in_job} nodes, and only this one trains"
            print(f"{state}; begin `cmd` with `srun`", file=sys.stderr, flush=True)
        return Node()
    rank = _number(RANK, os.environ.get(RANK) or slurm.get("SLURM_PROCID", ""))
    host, _, port = (os.environ.get(ADDRESS) or _address_in_slurm()).rpartition(":")
    if not host:
        raise RetraceError(f"{ADDRESS} is {os.environ.get(ADDRESS)!r}; should be node 0, {EXAMPLE}")
    if rank >= count:
        raise RetraceError(f"{RANK} is {rank}; should be less than {COUNT}, which is {count}")
    if processes < count:
        wanted = f"should be at least one on each of {count} nodes: -S processes={count}"
        raise RetraceError(f"params.yaml: processes is {processes}; {wanted}")
    return Node(rank, count, host, _number(ADDRESS, port))


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise RetraceError(f"{name} is {value!r}; should be a number, {EXAMPLE}")
    return int(value)


def _address_in_slurm() -> str:
    """Return the first host of this job step, with a port of this job's; "" outside of Slurm."""
    names = re.match(r"([^\[,]+)(?:\[(\d+))?", os.environ.get("SLURM_STEP_NODELIST", ""))
    if not names:
        return ""
    port = PORTS[int(os.environ["SLURM_JOB_ID"]) % len(PORTS)]
    return f"{names[1]}{names[2] or ''}:{port}"
