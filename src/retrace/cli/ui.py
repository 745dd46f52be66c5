"""`retrace ui`: serve the MLflow UI of this repository's store, to this machine only."""

import os
import socket
import sys
from argparse import ArgumentParser, Namespace
from importlib import metadata

from retrace.errors import RetraceError

GROUP = "look"
SUMMARY = (
    "serve the MLflow UI, to this machine only: one worker, and no access from pages of other sites"
)
EXAMPLES = (
    "retrace ui               every run, curve, figure and model",
    "retrace ui --port 5001   if 5000 is taken",
)
HERE = ("127.0.0.1", "localhost", "::1")


def add_arguments(parser: ArgumentParser) -> None:
    text = "loopback address to listen on (127.0.0.1, localhost or ::1; default: %(default)s)"
    parser.add_argument("--host", default="127.0.0.1", help=text)
    parser.add_argument("--port", type=int, default=5000, help="port (default: %(default)s)")


def run(args: Namespace) -> None:
    serve(args.host, args.port)


def serve(host: str, port: int) -> None:
    """Replace this process by MLflow's server: one worker, no jobs, closed to other sites.

    `mlflow ui` starts fifteen processes, and accepts requests from pages of sites with names such
    as 10.evil.com. Raises RetraceError if others could reach the server, because it has no
    password, or if the store is a server itself; ModuleNotFoundError without the extra `ui`.
    """
    from retrace.store import backend

    metadata.version("mlflow")  # the pages: mlflow-skinny has none of them
    if host not in HERE:
        names = ", ".join(HERE)
        why = "because the server has no password"
        raise RetraceError(f"--host is {host!r}; should be one of {names}, {why}")
    address = backend.address()
    if backend.is_served(address):
        raise RetraceError(
            "MLFLOW_TRACKING_URI is a server with its own UI; open that address in a browser"
        )
    _demand_free(host, port)
    backend.client()  # creates a missing database
    shown = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"MLflow UI: {shown} (stop it with Ctrl-C)", flush=True)
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execve(sys.executable, _command(host, port, address), env)  # noqa: S606


def _command(host: str, port: int, address: str) -> list[str]:
    """Return the command of the server of the store at `address`."""
    from retrace.store import backend

    names = [f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]")]
    options = {
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--backend-store-uri": address,
        "--default-artifact-root": backend.artifacts().as_uri(),
        "--allowed-hosts": ",".join(names),
        "--cors-allowed-origins": ",".join(f"http://{name}" for name in names),
    }
    flags = [word for option in options.items() for word in option]
    return [sys.executable, "-m", "mlflow", "server", *flags]


def _demand_free(host: str, port: int) -> None:
    """Raise RetraceError if the port is taken; MLflow would exit with 0."""
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind) as attempt:
        # As MLflow does, so that the port of a server that just ended is free.
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((host, port))
        except OSError as error:
            raise RetraceError(f"--port is {port}: {error.strerror}; choose another") from None
