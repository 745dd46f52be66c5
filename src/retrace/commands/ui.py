"""`retrace ui`: MLflow's pages of the store, for this machine alone."""

import os
import socket
import sys

from retrace import files
from retrace.errors import RetraceError
from retrace.tracking import store

HERE = ("127.0.0.1", "localhost", "::1")


def serve(host: str, port: int) -> None:
    """This process is MLflow's server: one worker, no jobs, and no answer to a page or a name that is not its own.

    `mlflow ui` starts fifteen processes, and lets a page of another site in by a name such as 10.evil.com. Raises
    RetraceError where others could reach it, since it asks nobody who they are, and where the store is a server's.
    """
    if host not in HERE:
        raise RetraceError(f"--host is {host!r}; should be one of {', '.join(HERE)}: this server asks for no password")
    place = store.address()
    if store.is_served(place):
        raise RetraceError("MLFLOW_TRACKING_URI names a server, which has its own pages: open those")
    _demand_free(host, port)
    store.client()  # a missing database is made, whole
    names = [f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]")]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", place, "--default-artifact-root", (files.root() / "mlruns").as_uri()),
        *("--allowed-hosts", ",".join(names), "--cors-allowed-origins", ",".join(f"http://{name}" for name in names)),
    ]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port} has every run; Ctrl-C ends it", flush=True)
    os.execve(sys.executable, command, os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})  # noqa: S606


def _demand_free(host: str, port: int) -> None:
    """MLflow itself would say so among other lines, and end as if all were well."""
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as its own: what has just ended holds nothing
        try:
            tried.bind((host, port))
        except OSError as error:
            raise RetraceError(f"--port is {port}: {error.strerror}; name another") from None
