"""The program of the MLflow server on loopback, which ends with the DVC that it works for.

    python -m retrace.tracking.mlflow_server DESCRIPTOR IDENTITY

DESCRIPTOR is a socket that listens. MLflow is imported at the first connection. The path of each
request begins with the attempt at a stage that makes it; nobody else gets an answer. A run that it
creates is tagged, whether its client knows MLFLOW_RUN_CONTEXT or not, and hangs below the stage's
run at once.
"""

import io
import json
import os
import re
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from threading import Lock, Thread
from typing import Any

from retrace import event_log
from retrace.event_log import Event
from retrace.store import run_context
from retrace.system import processes
from retrace.tracking.loopback import HOST, Server

WATCH_S = 1.0  # polling interval for the DVC process
PATH = re.compile(r"/retrace/([0-9a-f]+)(/.*)")
CREATE_RUN = "/mlflow/runs/create"

Environ = dict[str, Any]
Start = Callable[..., Any]
Application = Callable[[Environ, Start], Iterable[bytes]]


class Entrance:
    """A WSGI application in front of MLflow's, which lets in attempts at stages."""

    def __init__(self, mlflow: Application) -> None:
        self.mlflow = mlflow
        self._stages: dict[str, Stage] = {}  # by attempt
        self._lock = Lock()

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        """Answer a request."""
        match = PATH.fullmatch(environ["PATH_INFO"])
        stage = self._stage(match[1]) if match else None
        if match is None or stage is None:
            return refusal("this is no address of a stage")(environ, start)
        environ["PATH_INFO"] = match[2]
        if match[2].endswith(CREATE_RUN):
            _add_tags(environ, stage)
        return self.mlflow(environ, start)

    def _stage(self, attempt: str) -> "Stage | None":
        with self._lock:
            if attempt not in self._stages:
                start = _first_event(attempt)
                if start is None:
                    return None
                self._stages[attempt] = Stage(start)
            return self._stages[attempt]


class Stage:
    """An attempt at a stage, by its first event.

    Its run and its MLflow experiment are created here and now, if the background uploader has not
    done so: a client that asks for the experiment, in vain, would create another one at once.
    """

    def __init__(self, start: Event) -> None:
        from retrace.store import backend, runs

        self.start = start
        self.runs: runs.Pair | None = None
        with suppress(Exception):  # of MLflow or its store: then the runs are connected afterwards
            self.runs = runs.pair(backend.client(), start)

    def tags(self, experiment: str) -> dict[str, str]:
        """Return the tags of a new run in this MLflow experiment."""
        from retrace.store import adoption

        tags = run_context.tags(self.start)
        return tags | (adoption.links(self.runs, experiment) if self.runs else {})


def refusal(reason: str) -> Application:
    """Return a WSGI application that answers as MLflow does when it refuses a request."""
    error = {"error_code": "BAD_REQUEST", "message": f"retrace: {reason}"}

    def application(_: Environ, start: Start) -> Iterable[bytes]:
        status = HTTPStatus.BAD_REQUEST
        start(f"{status.value} {status.phrase}", [("Content-Type", "application/json")])
        return [json.dumps(error).encode()]

    return application


def application(port: int) -> Application:
    """Return MLflow's application for the store, for requests to this port of this machine only."""
    from retrace.store import backend

    backend.client()  # creates a missing database
    os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] = f"{HOST}:{port}"
    from mlflow.server import app, handlers, security

    store = backend.address()
    handlers.initialize_backend_stores(store, store, backend.artifacts().as_uri())
    security.init_security_middleware(app)
    return Entrance(app.wsgi_app)


def serve(listener: socket.socket) -> None:
    """Serve connections to the socket, for ever."""
    from werkzeug.serving import make_server

    port = listener.getsockname()[1]
    try:
        served = application(port)
    except Exception as error:  # noqa: BLE001 - clients would try to connect for minutes
        reason = " ".join(str(error).split())[:300]
        served = refusal(f"MLflow's server does not start: {reason}")
    make_server(HOST, port, served, threaded=True, fd=listener.fileno()).serve_forever()


def _add_tags(environ: Environ, stage: Stage) -> None:
    """Add the stage's tags to a request that creates a run; tags that it has itself win."""
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    try:
        request = json.loads(body)
        own = {tag["key"] for tag in request.get("tags", [])}
        tags = stage.tags(str(request.get("experiment_id", "0")))
        added = [{"key": key, "value": value} for key, value in tags.items() if key not in own]
        body = json.dumps({**request, "tags": [*request.get("tags", []), *added]}).encode()
    except (ValueError, TypeError, KeyError, AttributeError):
        pass  # MLflow says what is wrong with it
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))


def _first_event(attempt: str) -> Event | None:
    """Return the first event of an attempt's event log, also of one that is uploaded."""
    for path in event_log.folder().rglob(f"*-{attempt}.jsonl"):
        with suppress(FileNotFoundError, IndexError):  # uploaded just now; torn
            return event_log.read(path)[0]
    return None


def _watch(server: Server) -> None:
    """End this process when its DVC no longer exists, also if the repository no longer does."""
    try:
        while processes.alive(server.owner):
            time.sleep(WATCH_S)
        server.withdraw()
    finally:
        os._exit(0)


def main() -> None:
    """Wait for a connection, then serve."""
    if os.fork():  # so that this is no process of the stage
        os._exit(0)
    descriptor, owner = sys.argv[1:]
    listener = socket.socket(fileno=int(descriptor))
    port = listener.getsockname()[1]
    server = Server(processes.from_line(owner), processes.identity(), port)
    server.publish()
    Thread(target=_watch, args=(server,), daemon=True).start()
    select.select([listener], [], [])
    serve(listener)


if __name__ == "__main__":
    main()
