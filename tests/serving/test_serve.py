"""`mlflow models serve` without this project's code: equal predictions, 4xx for bad requests."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import mlflow
import numpy as np
import probe
import pytest
import requests
from faults.servers import until, unused_port
from mlflow.entities import Run
from PIL import Image
from probe import Load, Question
from repository import Clone
from safetensors.numpy import load_file

from lab import paths
from lab.evaluation.metrics import softmax
from retrace.errors import RetraceError

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("serve")]

SMALL = {"dataset: mnist": "dataset: digits", "epochs: 5": "epochs: 2", "threads: 2": "threads: 1"}
AGREES = 1e-6


class Served(NamedTuple):
    """A clone with a trained model, and a server of that model."""

    clone: Clone
    parent: str
    url: str
    python: Path  # of the server

    def ask(self, body: str | bytes, kind: str | None = "application/json") -> requests.Response:
        headers = {"Content-Type": kind} if kind is not None else {}
        return requests.post(f"{self.url}/invocations", body, headers=headers, timeout=30)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with all packages but this project."""
    place = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    own = {
        name: sysconfig.get_path("purelib", vars={"base": base})
        for name, base in {"": sys.prefix, "new": str(place)}.items()
    }
    # A line in a .pth file adds a folder, but not its own .pth files: no editable install.
    Path(own["new"], "packages.pth").write_text(own[""])
    uvicorn = place / "bin" / "uvicorn"  # which MLflow looks for
    uvicorn.write_text(f'#!/bin/sh\nexec {place}/bin/python -m uvicorn "$@"\n')
    uvicorn.chmod(0o755)
    return place / "bin" / "python"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, bare: Path) -> Iterator[Served]:
    """The digits, trained, tested, promoted, and served."""
    clone = Clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("cache"), SMALL)
    clone.type("dvc repro evaluate")
    logs = clone.path / ".retrace/journal"
    until(lambda: not any(logs.glob("*.jsonl")), 120.0, "the uploads")
    (parent,) = (run for run in runs(clone) if "retrace.key" in run.data.tags)
    assert "models:/digits@champion is version 1" in clone.type(
        f"retrace promote {parent.info.run_id[:8]}"
    )
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    port = unused_port()
    env = {name: value for name, value in clone.env.items() if name != "PYTHONPATH"}
    env |= {"PATH": f"{bare.parent}:/usr/bin:/bin", "MLFLOW_TRACKING_URI": store(clone)}
    command = "mlflow models serve -m models:/digits@champion --env-manager local --port 5001"
    with (elsewhere / "log").open("wb") as log:
        process = subprocess.Popen(
            [bare, "-m", *command.replace("5001", str(port)).split()],
            cwd=elsewhere,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until(lambda: process.poll() is not None or answers(port), what="an answer")
        assert process.poll() is None, (elsewhere / "log").read_text()
        yield Served(clone, parent.info.run_id, f"http://127.0.0.1:{port}", bare)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def store(clone: Clone) -> str:
    return f"sqlite:///{clone.path / 'mlflow.db'}"


def runs(clone: Clone) -> list[Run]:
    client = mlflow.MlflowClient(store(clone))
    return list(
        client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    )


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/ping", timeout=5).ok
    except requests.ConnectionError:
        return False


def images(clone: Clone) -> np.ndarray:
    """Return the test split's images (n, 1, 28, 28)."""
    return load_file(clone.path / paths.TEST)["inputs"]


def test_server_has_neither_package(served: Served) -> None:
    for module, code in (("retrace", 1), ("lab", 1), ("mlflow", 0)):
        tried = subprocess.run(
            [served.python, "-c", f"import {module}"], cwd="/", capture_output=True, check=False
        )
        assert tried.returncode == code


def test_evaluate_predict_and_server_agree(served: Served) -> None:
    inputs = images(served.clone)
    scans = served.clone.path / "scans"
    scans.mkdir()
    for number, image in enumerate(inputs):
        Image.fromarray(image[0]).save(scans / f"{number:04}.png")
    logits = load_file(served.clone.path / paths.PREDICTIONS)["logits"]
    expected = softmax(logits)
    assert len(inputs) > 300
    answer = served.ask(json.dumps({"inputs": inputs.tolist()})).json()["predictions"]
    assert np.abs(np.array(answer) - expected).max() < AGREES
    for command in (
        "retrace predict models scans --json",
        "retrace predict models:/digits@champion scans --json",
    ):
        document = json.loads(served.clone.type(command))
        probabilities = np.array(
            [list(one["probabilities"].values()) for one in document["predictions"]]
        )
        assert np.abs(probabilities - expected).max() < AGREES
        assert [one["label"] for one in document["predictions"]] == [
            str(best) for best in logits.argmax(axis=1)
        ]


def test_readme_commands_predict_and_promote(served: Served) -> None:
    clone = served.clone
    Image.fromarray(images(clone)[0, 0]).resize((300, 400)).save(clone.path / "photo.png")
    Image.fromarray(255 - images(clone)[0, 0]).resize((300, 400)).save(clone.path / "paper.png")
    plain = clone.type("retrace predict models photo.png")
    assert (
        plain.split()[:2]
        == clone.type("retrace predict models paper.png --invert")
        .replace("paper", "photo")
        .split()[:2]
    )
    assert len(clone.type(f"retrace predict {served.parent[:6]} photo.png --top 3").split()) == 7
    assert "nothing changed" in clone.type(f"retrace promote {served.parent}")


def test_export_of_a_run_is_that_of_its_files(served: Served) -> None:
    assert "on 100 test samples" in served.clone.type("retrace export models --format onnx")
    served.clone.type(f"retrace export {served.parent} --format pt2 --to classifier")
    exported, other = (
        json.loads((served.clone.path / folder / "model.json").read_text())
        for folder in ("export-onnx", "classifier")
    )
    assert exported["run"] is None
    own = {"file", "sha256", "run", "largest_difference"}
    assert all(other[key] == value for key, value in exported.items() if key not in own)
    trained = next(run for run in runs(served.clone) if run.info.run_id == other["run"])
    assert trained.data.tags["retrace.stage"] == "train"


def body(pixel: Any = 0, shape: tuple[int, ...] = (1, 1, 28, 28)) -> str:
    """Return a request with this first pixel and shape; all other pixels are 0."""
    flat = [pixel, *[0] * (int(np.prod(shape)) - 1)][: int(np.prod(shape))]
    return json.dumps({"inputs": _nested(flat, shape)})


def _nested(flat: list[Any], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) < 2:
        return flat
    size = int(np.prod(shape[1:]))
    return [
        _nested(flat[first : first + size], shape[1:]) for first in range(0, shape[0] * size, size)
    ]


NONSENSE = {
    "a smaller image": body(shape=(2, 1, 27, 28)),
    "colour": body(shape=(1, 3, 28, 28)),
    "a flat image": body(shape=(1, 784)),
    "an image that is no batch": body(shape=(1, 28, 28)),
    "no image": '{"inputs": []}',
    "a number": '{"inputs": 5}',
    "null": '{"inputs": null}',
    "a word": '{"inputs": "seven"}',
    "columns": '{"inputs": {"a": [1]}}',
    "images of two sizes": '{"inputs": [[[[1, 2]]], [[[1]]]]}',
    "256": body(256),
    "-1": body(-1),
    "a huge whole number": body(2**70),
    "a huge number": body(1e30),
    "an infinite number": body().replace("[[[[0", "[[[[1e999"),
    "NaN": body(float("nan")),
    "a letter": body("a"),
    "no pixel": body(None),
    "a table": '{"dataframe_split": {"columns": ["a"], "data": [[1]]}}',
    "two inputs": '{"inputs": [], "instances": []}',
    "no inputs": "{}",
    "another word for them": body().replace("inputs", "pixels"),
    "a list": "[]",
    "half a document": body()[:-1],
    "no JSON": "seven",
    "nothing": "",
    "no text": b"\xff\xfe\x00",
    "a prompt": '{"prompt": "seven"}',
}


@pytest.mark.parametrize("name", NONSENSE)
def test_bad_request_gets_4xx(served: Served, name: str) -> None:
    assert 400 <= served.ask(NONSENSE[name]).status_code < 500
    assert len(served.ask(body()).json()["predictions"][0]) == 10


@pytest.mark.parametrize(
    "kind", ["image/png", "text/csv", "application/json; charset=latin-1", "", "application/x-npy"]
)
def test_request_without_json_gets_4xx(served: Served, kind: str) -> None:
    assert 400 <= served.ask(b"\x89PNG\r\n", kind).status_code < 500
    assert served.ask(body()).ok


@pytest.mark.parametrize("n", [1, 2, 7])
def test_batch_of_any_size_is_answered(served: Served, n: int) -> None:
    given = np.array(served.ask(body(shape=(n, 1, 28, 28))).json()["predictions"])
    assert given.shape == (n, 10)
    assert np.allclose(given.sum(axis=1), 1)


def test_probe_checks_and_logs(served: Served) -> None:
    command = f"python benchmarks/probe.py models:/digits@champion {served.url}"
    measured = json.loads(
        served.clone.type(f"{command} --requests 40 --clients 2 --images 3 --json")
    )
    assert (measured["answers"], measured["failed"]) == (40, 0)
    assert measured["largest_difference"] < AGREES
    assert (
        0 < measured["latency_p50_ms"] <= measured["latency_p95_ms"] <= measured["latency_p99_ms"]
    )
    (run,) = (run for run in runs(served.clone) if run.info.run_id == measured["run"])
    assert run.data.tags["mlflow.parentRunId"] == served.parent
    assert run.data.metrics["images_per_s"] == measured["images_per_s"]
    assert (run.data.params["images"], run.info.status) == ("3", "FINISHED")
    model = mlflow.MlflowClient(store(served.clone)).get_logged_model(
        run.data.tags["retrace.probed"]
    )
    assert {metric.key for metric in model.metrics or []} >= {"latency_p50_ms", "images_per_s"}


class Other(BaseHTTPRequestHandler):
    """A server of something else, a little slow."""

    answer = json.dumps({"predictions": [[0.5, 0.5]]}).encode()
    code = 200
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.01)
        self.send_response(self.code)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        pass


@pytest.fixture
def other() -> Iterator[str]:
    """The address of a running `Other`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/invocations"
    server.shutdown()
    server.server_close()


QUESTION = Question(b"{}", np.array([[0.5, 0.5]]))


def test_load_ends_by_requests_or_time(other: str) -> None:
    measured = probe.measure(other, [QUESTION], Load(requests=30, clients=4, seconds=100, images=1))
    assert (measured.answers, measured.failed, measured.largest_difference) == (30, 0, 0)
    assert measured.latency_p50_ms >= 10
    began = time.monotonic()
    measured = probe.measure(
        other, [QUESTION], Load(requests=10_000, clients=2, seconds=1, images=1)
    )
    assert time.monotonic() - began < 3
    assert 0 < measured.answers < 10_000


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"predictions": [[1, 0, 0]]}, 200),
        ({"predictions": [[None, 1]]}, 200),
        ({"predictions": "no"}, 200),
        ([], 200),
        ({"predictions": [[0.5, 0.5]]}, 500),
    ],
)
def test_bad_answer_is_failure(
    other: str, monkeypatch: pytest.MonkeyPatch, answer: Any, code: int
) -> None:
    monkeypatch.setattr(Other, "answer", json.dumps(answer).encode())
    monkeypatch.setattr(Other, "code", code)
    measured = probe.measure(other, [QUESTION], Load(requests=3, clients=1, seconds=100, images=1))
    assert (measured.answers, measured.failed) == (0, 3)
    with pytest.raises(RetraceError, match="it is not a server of this model"):
        probe.warm_up(other, QUESTION)


def test_probe_logs_no_other_model(
    served: Served, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = len(runs(served.clone))
    monkeypatch.setattr(Other, "answer", json.dumps({"predictions": [[0.1] * 10]}).encode())
    url = other.removesuffix("/invocations")
    output = served.clone.type(
        f"python benchmarks/probe.py {served.parent} {url} --requests 3", code=1
    )
    assert "DIFFER from" in output
    assert "not logged" in output
    assert len(runs(served.clone)) == n


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com:80",
        "http://127.0.0.1.evil.com:80",
        "http://127.0.0.1:80@evil.com:80",
        "http://user@localhost:80",
        "http://127.0.0.1",
        "http://127.0.0.1:port",
        "http://localhost:80/x",
        "http://localhost:80?a=b",
        "https://127.0.0.1:80",
        "http://[::1",
        "127.0.0.1:80",
        "",
    ],
)
def test_probe_refuses_other_machines(url: str) -> None:
    with pytest.raises(RetraceError, match="should be http://127.0.0.1:PORT"):
        probe.endpoint(url, Load(1, 1, 1, 1))


@pytest.mark.parametrize("name", ["requests", "clients", "seconds", "images"])
@pytest.mark.parametrize("value", [0, -1, 10_001])
def test_load_is_bounded(name: str, value: int) -> None:
    load = Load(**{"requests": 1, "clients": 1, "seconds": 1, "images": 1} | {name: value})
    with pytest.raises(RetraceError, match=f"--{name} is {value}; should be 1 to "):
        probe.endpoint("http://localhost:5001/", load)


def test_probe_names_command_to_start() -> None:
    address = probe.endpoint(f"http://127.0.0.1:{unused_port()}", Load(1, 1, 1, 1))
    with pytest.raises(RetraceError, match="does not answer .*; start it: mlflow models serve"):
        probe.warm_up(address, QUESTION)
