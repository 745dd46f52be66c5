"""Ray's processes on this machine: a node of a cluster. Ray Core only, and never without a token.

Ray itself is started as a program, so this module needs no Ray. Each node has a file in the user's
cache, by which it is found again and ended: `ray stop` would end the Ray of every user.

    retrace cluster start   ->   ray start --head --block   ->   gcs_server, raylet, workers
"""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from retrace.errors import RetraceError, reason
from retrace.system import files, processes

PORT = 6379  # Ray's own default
ANSWERS_S = 5.0  # for the first machine to accept a connection
UP_S = 90.0  # for a node to be up
ENDS_S = 30.0  # for a node's processes to end on SIGTERM
STORE_BYTES = 100 * 10**6  # of Ray's shared memory: tasks and results are a few kilobytes
MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105 - the variable's name
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"  # noqa: S105
RAY = (sys.executable, "-m", "ray.scripts.scripts", "start")
UP = "Ray runtime started"
ADDRESS = re.compile(r"ray start --address='([^']+)'")
COLOURS = re.compile(r"\x1b\[[\d;]*m")


class Node(NamedTuple):
    """A node that this user has started on this machine."""

    process: processes.Identity  # of `ray start --block`
    address: str  # of the head
    is_head: bool
    log: str
    file: Path


def start(port: int, cpus: int | None, gpus: int | None) -> Node:
    """Start a cluster with this machine as its first node. Raises RetraceError if that fails."""
    demand_ray()
    env = authenticated(creates=True)
    words = ("--head", f"--port={port}", "--include-dashboard=false", "--no-monitor")
    return _start(words, env, cpus, gpus)


def join(address: str, cpus: int | None, gpus: int | None) -> Node:
    """Make this machine a node of a cluster. Raises RetraceError if that fails."""
    demand_ray()
    if not re.fullmatch(r"\S+:\d+", address):
        raise RetraceError(f"ADDRESS is {address!r}; should be HOST:PORT, as `start` prints it")
    return _start((f"--address={address}",), authenticated(), cpus, gpus, address)


def stop() -> list[Node]:
    """End this user's nodes on this machine and what runs on them; return them."""
    ended = running()
    for node in ended:
        processes.end(node.process, ENDS_S)
        node.file.unlink(missing_ok=True)
    return ended


def running() -> list[Node]:
    """Return this user's nodes on this machine, oldest first; forget those that have ended."""
    nodes: list[Node] = []
    for file in sorted(_folder().glob("*.json"), key=lambda file: file.stat().st_mtime):
        with suppress(OSError, ValueError):
            values = json.loads(file.read_text(encoding="utf-8"))
            if values["process"]["host"] != processes.identity()["host"]:
                continue  # another machine's, in a folder that both share
            if processes.alive(values["process"]):
                nodes.append(Node(**values, file=file))
            else:
                file.unlink(missing_ok=True)
    return nodes


def address() -> str:
    """Return the cluster's address: RAY_ADDRESS, else that of the newest node here.

    Raises RetraceError if there is none.
    """
    if given := os.environ.get("RAY_ADDRESS"):
        return given
    nodes = running()
    if nodes:
        return nodes[-1].address
    start_or_join = "type `retrace cluster start`, or `retrace cluster join ADDRESS`"
    raise RetraceError(f"no cluster: this machine is no node of one; {start_or_join}")


class HeadLostError(RetraceError):
    """The cluster's first machine does not answer: all that the cluster knew is lost."""


def check_head() -> None:
    """Raise HeadLostError if the cluster's first machine does not answer."""
    host, _, port = address().rpartition(":")
    try:
        socket.create_connection((host, int(port)), ANSWERS_S).close()
    except OSError as error:
        lost = f"the cluster's first machine {host}:{port} does not answer ({reason(error)})"
        again = "`retrace cluster start` there, `retrace cluster join` on the others"
        raise HeadLostError(f"{lost}; type {again}, then this command again") from None


def authenticated(*, creates: bool = False) -> dict[str, str]:
    """Return Ray's variables for a cluster that refuses whoever lacks the token.

    The token is in a file that only this user can read; `creates` makes a missing one. Raises
    RetraceError if authentication is switched off, or if there is no such file.
    """
    mode = os.environ.get(MODE, "token")
    if mode != "token":
        raise RetraceError(f"{MODE} is {mode!r}; should be 'token' or not set: type `unset {MODE}`")
    # Ray runs its workers with niceness 15: any other process would slow experiments down.
    env = {MODE: "token", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    if os.environ.get(TOKEN):
        return env
    path = token_file()
    if not path.exists():
        if not creates:
            raise RetraceError(f"{path}: no such token; copy it from the cluster's first machine")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
    if path.stat().st_mode & 0o077:
        raise RetraceError(f"{path}: others can read the token; type `chmod 600 {path}`")
    return env | {TOKEN_PATH: str(path)}


def token_file() -> Path:
    """Return the file of the token, where Ray looks for it."""
    return Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray/auth_token")


def _start(
    words: tuple[str, ...],
    env: Mapping[str, str],
    cpus: int | None,
    gpus: int | None,
    address: str = "",
) -> Node:
    """Start Ray in the background and wait until it is up."""
    sizes = {"--num-cpus": cpus, "--num-gpus": gpus, "--object-store-memory": STORE_BYTES}
    flags = [f"{name}={value}" for name, value in sizes.items() if value is not None]
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*RAY, *words, *flags, "--include-log-monitor=false", "--block"],
            env=os.environ | env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        printed = _wait_until_up(process, log)
    except BaseException:
        process.terminate()
        raise
    shown = ADDRESS.search(printed)
    node = Node(
        processes.identity(process.pid),
        shown[1] if shown else address,
        not address,
        str(log),
        log.with_suffix(".json"),
    )
    values = {name: value for name, value in node._asdict().items() if name != "file"}
    node.file.write_text(json.dumps(values), encoding="utf-8")
    process.returncode = 0  # or Python would warn that the process outlives this one
    return node


def _wait_until_up(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Return what Ray printed once it is up. Raises RetraceError if it ends or takes too long."""
    until = time.monotonic() + UP_S
    while True:
        printed = COLOURS.sub("", log.read_text(encoding="utf-8", errors="replace"))
        if UP in printed:
            return printed
        if process.poll() is not None or time.monotonic() > until:
            lines = [line.strip() for line in printed.splitlines() if line.strip()]
            reason = lines[-1] if lines else f"it did not start within {UP_S:.0f} s"
            raise RetraceError(f"Ray: {reason}; its output is in {log}")
        time.sleep(0.1)


def _folder() -> Path:
    return files.cache("cluster") / "nodes"


def demand_ray() -> None:
    """Raise ModuleNotFoundError if Ray is not installed."""
    if find_spec("ray") is None:
        raise ModuleNotFoundError(name="ray")
