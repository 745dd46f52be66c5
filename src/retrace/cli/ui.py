"""`retrace ui`: serve the MLflow UI of this repository's store, to this machine only."""

import os
import socket
import sys
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from importlib import metadata
from typing import Any

from retrace import settings
from retrace.errors import RetraceError
from retrace.system import browser, files, mlflow_environment

GROUP = "look"
SUMMARY = (
    "serve the MLflow UI, to this machine only: one worker, and no access from pages of other sites"
)
EXAMPLES = (
    "retrace ui               every run, curve, figure and model",
    "retrace ui --open        the same, shown in the browser",
    "retrace ui --port 5001   if 5000 is taken",
)
HERE = ("127.0.0.1", "localhost", "::1")


def add_arguments(parser: ArgumentParser) -> None:
    text = "loopback address to listen on (127.0.0.1, localhost or ::1; default: %(default)s)"
    parser.add_argument("--host", default="127.0.0.1", help=text)
    parser.add_argument("--port", type=int, default=5000, help="port (default: %(default)s)")
    text = "open the view of the experiments in the browser"
    parser.add_argument("--open", dest="opens", action="store_true", help=text)


def run(args: Namespace) -> None:
    serve(args.host, args.port, opens=args.opens)


def serve(host: str, port: int, *, opens: bool = False) -> None:
    """Replace this process by MLflow's server: one worker, no jobs, closed to other sites.

    Its views are saved and printed; the first one is opened in the browser if `opens`.

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
    client = backend.client()  # creates a missing database
    shown = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"MLflow UI: {shown} (stop it with Ctrl-C)")
    addresses = {title: f"{shown}/{end}" for title, end in _views(client).items()}
    for title, view in addresses.items():
        print(f"{title}: {view}")
    sys.stdout.flush()
    if opens:
        browser.open_later(next(iter(addresses.values()), shown))
    env = mlflow_environment.for_servers(os.environ)
    env |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execve(sys.executable, _command(host, port, address), env)  # noqa: S606


def _views(client: Any) -> dict[str, str]:
    """Save the views of the MLflow experiment with the newest run; return the ends of addresses.

    A store that refuses them is shown without.
    """
    from retrace.store import backend, views

    with suppress(backend.StoreUnavailableError), backend.mlflow_errors():
        experiment = views.newest(client)
        primary = settings.load(files.root()).metrics.primary
        if experiment:
            return views.save(client, experiment, primary)
    return {}


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
    registry = os.environ.get("MLFLOW_REGISTRY_URI", "")
    if registry and not backend.is_served(registry):
        options["--registry-store-uri"] = registry
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
