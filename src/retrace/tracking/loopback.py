"""An http address of the MLflow store, for MLflow clients in the commands of stages.

A client of an older MLflow cannot open the database of a newer one, but speaks to its server. Each
DVC has a server of its own, for as long as it runs. The server costs seconds and 250 MB, so it is a
small process that waits for the first connection; most pipelines never make one.

    a stage's client -> this address -> mlflow_server, another process -> the store
"""

import json
import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from retrace.system import files, isolated, mlflow_environment, processes
from retrace.system.processes import Identity

HOST = "127.0.0.1"
BACKLOG = 128  # connections that wait while the server starts


class Server(NamedTuple):
    """A server: the DVC that it works for, its own process, and its port."""

    owner: Identity
    process: Identity
    port: int

    @staticmethod
    def of(owner: Identity) -> "Server | None":
        """Return the running server of a DVC, if it has one."""
        with suppress(FileNotFoundError):
            server = _read(_file(owner))
            if server.owner == owner and processes.alive(server.process):
                return server
        return None

    def publish(self) -> None:
        """Let later stages of the same DVC find the server; forget those that were killed."""
        for file in _file(self.owner).parent.glob("*.json"):
            with suppress(FileNotFoundError):
                if not processes.alive(_read(file).process):
                    file.unlink()
        with files.atomic(_file(self.owner)) as unfinished:
            unfinished.write_text(json.dumps(self._asdict()), encoding="utf-8")

    def withdraw(self) -> None:
        _file(self.owner).unlink(missing_ok=True)


def address(owner: Identity, attempt: str) -> str:
    """Return the address for the attempt with this id, on the server of the DVC that runs it.

    The server is started if there is none.
    """
    server = Server.of(owner)
    port = server.port if server else _start(owner)
    return f"http://{HOST}:{port}/retrace/{attempt.rpartition('-')[2]}"


def _start(owner: Identity) -> int:
    """Start a server; return its port, on which it accepts connections at once."""
    with socket.create_server((HOST, 0), backlog=BACKLOG) as listener:
        program = isolated.python("retrace.tracking.mlflow_server")
        descriptor = listener.fileno()
        process = subprocess.Popen(
            [*program, str(descriptor), processes.to_line(owner)],
            cwd=files.root(),
            env=mlflow_environment.for_servers(os.environ),
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        process.returncode = 0  # it outlives this process, of which Python would warn
        return listener.getsockname()[1]


def _read(file: Path) -> Server:
    return Server(**json.loads(file.read_text(encoding="utf-8")))


def _file(owner: Identity) -> Path:
    return files.root() / ".retrace" / "servers" / f"{owner['pid']}.json"
