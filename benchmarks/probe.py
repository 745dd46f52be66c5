"""Measure a model's server on this machine, and compare its answers with the model's own.

    python benchmarks/probe.py models:/mnist@champion http://127.0.0.1:5001
    python benchmarks/probe.py 4f0c2d http://127.0.0.1:5001 --images 100 --clients 2

Call it in the repository's root. The measurement is logged to MLflow as a child run of the model's
experiment, unless the answers are those of another model. Exit code 1 if an answer was wrong.
"""

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from threading import Event, Lock
from urllib.parse import urlsplit

import numpy as np
import requests
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric, Param

from lab import paths
from lab.data import storage
from lab.serving import package
from retrace import errors
from retrace.errors import RetraceError
from retrace.provenance import models
from retrace.store import backend
from retrace.system import machine

HERE = ("127.0.0.1", "localhost", "::1")
MOST = {"requests": 10_000, "clients": 8, "seconds": 120, "images": 100}  # maximum load
TOLERANCE = 1e-5  # of probabilities in float32, if sums are computed in a different order
WAIT_S = 10.0  # maximum for one answer
N_BODIES = 16  # different requests, sent in turns
PROBED = "retrace.probed"  # tag of the run: the model's id in MLflow

Probabilities = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Load:
    """At most `requests` requests of `images` each, by `clients` in parallel, for `seconds`."""

    requests: int
    clients: int
    seconds: int
    images: int


@dataclass(frozen=True)
class Measured:
    """Latencies in ms, images per second of all clients, and how far probabilities differ."""

    answers: int
    failed: int
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    images_per_s: float
    largest_difference: float


@dataclass(frozen=True)
class Question:
    """A request's body, and the right probabilities."""

    body: bytes
    expected: np.ndarray


def probe(model: str, url: str, load: Load, *, as_json: bool) -> int:
    """Measure the server at `url`, print and log it; return 0 if every answer was right, else 1.

    Raises RetraceError if it is on another machine or does not answer, or if `load` exceeds `MOST`.
    """
    address = endpoint(url, load)
    with backend.mlflow_errors():
        known = models.resolve_model(model)
        questions = test_questions(
            package.load(known.model_id, "cpu").probabilities, known.model_id, load
        )
    warm_up(address, questions[0])
    measured = measure(address, questions, load)
    run = None
    if measured.answers and measured.largest_difference <= TOLERANCE:
        with backend.mlflow_errors():
            run = log(backend.client(), known, asdict(load), asdict(measured))
    if as_json:
        print(
            json.dumps({"model": model, "url": url, "run": run} | asdict(load) | asdict(measured))
        )
    else:
        print(
            *_lines(model, load, measured),
            f"logged in run {run}" if run else "not logged",
            sep="\n",
        )
    return 0 if run and not measured.failed else 1


def endpoint(url: str, load: Load) -> str:
    """Return the address for requests.

    Raises RetraceError if it is on another machine, or if the load is too high.
    """
    try:
        parts = urlsplit(url)
        is_here = (
            parts.scheme == "http"
            and parts.hostname in HERE
            and parts.port
            and parts.username is None
        )
        is_here = is_here and not (parts.path.strip("/") or parts.query or parts.fragment)
    except ValueError:  # for example, a port that is not a number
        is_here = False
    if not is_here:
        raise RetraceError(
            f"URL is {url!r}; should be http://127.0.0.1:PORT: no other machine may be tested"
        )
    for name, value in asdict(load).items():
        if not 1 <= value <= MOST[name]:
            raise RetraceError(f"--{name} is {value}; should be 1 to {MOST[name]:,}")
    return f"{url.rstrip('/')}/invocations"


def test_questions(probabilities: Probabilities, name: str, load: Load) -> list[Question]:
    """Return at most `N_BODIES` requests with different raw test images, in NCHW layout.

    Raises RetraceError if the model does not accept such inputs.
    """
    samples, _ = storage.load(paths.TEST)
    questions = []
    for first in range(0, len(samples), load.images)[: min(N_BODIES, load.requests)]:
        inputs = np.array(samples.inputs[first : first + load.images])
        try:
            expected = probabilities(inputs)
        except Exception as error:  # noqa: BLE001 - MLflow wraps whatever the model raises
            reason = " ".join(str(error).split())[-120:]
            raise RetraceError(
                f"{paths.TEST}: not inputs of model {name}: {reason}; "
                "reproduce its experiment first"
            ) from None
        questions.append(Question(json.dumps({"inputs": inputs.tolist()}).encode(), expected))
    return questions


def measure(address: str, questions: Sequence[Question], load: Load) -> Measured:
    """Send the load and measure the answers. No request starts when the time is over."""
    ends = time.monotonic() + load.seconds
    interrupted = Event()
    lock = Lock()
    numbers = count()

    def client() -> Iterator[tuple[float, float | None, int]]:
        with _session() as session:
            while True:
                with lock:
                    number = next(numbers)
                if number >= load.requests or time.monotonic() > ends or interrupted.is_set():
                    return
                question = questions[number % len(questions)]
                began = time.perf_counter()
                difference = _difference(session, address, question)
                yield time.perf_counter() - began, difference, len(question.expected)

    began = time.perf_counter()
    with ThreadPoolExecutor(load.clients) as pool:
        try:
            by_client = pool.map(lambda _: list(client()), range(load.clients))
            answers = [answer for client_answers in by_client for answer in client_answers]
        finally:
            interrupted.set()
    return _summary(answers, time.perf_counter() - began)


def _summary(answers: list[tuple[float, float | None, int]], took_s: float) -> Measured:
    right = [
        (seconds, difference, n) for seconds, difference, n in answers if difference is not None
    ]
    latencies = [1000 * seconds for seconds, *_ in right] or [0.0]
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
    return Measured(
        answers=len(right),
        failed=len(answers) - len(right),
        latency_p50_ms=float(p50),
        latency_p95_ms=float(p95),
        latency_p99_ms=float(p99),
        images_per_s=sum(n for *_, n in right) / took_s,
        largest_difference=max((difference for _, difference, _ in right), default=0.0),
    )


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy
    session.headers["Content-Type"] = "application/json"
    return session


def _difference(session: requests.Session, address: str, question: Question) -> float | None:
    """Return the largest difference of a probability from the right one, None without an answer."""
    try:
        answer = _probabilities(
            session.post(address, question.body, timeout=WAIT_S, allow_redirects=False), question
        )
    except requests.RequestException:
        return None
    return None if answer is None else float(np.abs(answer - question.expected).max())


def _probabilities(answer: requests.Response, question: Question) -> np.ndarray | None:
    """Return the probabilities in an answer, None if it has none, or not one for each class."""
    try:
        predictions = answer.json()["predictions"] if answer.status_code == 200 else []
        values = np.array(predictions, float)
    except (ValueError, LookupError, TypeError):  # not JSON, or not of that form
        return None
    is_valid = values.shape == question.expected.shape and np.isfinite(values).all()
    return values if is_valid else None


def warm_up(address: str, question: Question) -> None:
    """Get one answer before measuring. Raises RetraceError if there is none."""
    with _session() as session:
        try:
            answer = session.post(address, question.body, timeout=WAIT_S, allow_redirects=False)
        except requests.RequestException as error:
            todo = "start it: mlflow models serve -m MODEL --env-manager local --port 5001"
            raise RetraceError(
                f"{address}: does not answer ({type(error).__name__}); {todo}"
            ) from None
    if _probabilities(answer, question) is None:
        text = ascii(" ".join(answer.text.split())[:120])
        raise RetraceError(
            f"{address}: answers {answer.status_code}, {text}; it is not a server of this model"
        )


def _lines(model: str, load: Load, measured: Measured) -> Iterator[str]:
    shape = f"images per request: {load.images}, clients: {load.clients}"
    yield f"{measured.answers:,} answers, {measured.failed:,} failures ({shape})"
    latencies = {
        "p50": measured.latency_p50_ms,
        "p95": measured.latency_p95_ms,
        "p99": measured.latency_p99_ms,
    }
    text = ", ".join(f"{name} {value:.1f} ms" for name, value in latencies.items())
    yield f"latency {text}; {measured.images_per_s:,.0f} images/s"
    difference = measured.largest_difference
    verdict = (
        f"are equal to those of {model}"
        if difference <= TOLERANCE
        else f"DIFFER from those of {model}: another model is served"
    )
    yield f"probabilities {verdict}; largest difference {difference:.0e}"


def log(
    client: MlflowClient, model: LoggedModel, load: Mapping[str, int], measured: Mapping[str, float]
) -> str:
    """Log the measurement for the model, as a child run of its experiment; return its id."""
    parent = client.get_run(str(model.source_run_id)).data.tags.get("mlflow.parentRunId")
    tags = {
        PROBED: model.model_id,
        "retrace.machine": machine.processor(),
        "mlflow.user": machine.user(),
    }
    tags |= {"mlflow.parentRunId": parent} if parent else {}
    now = int(time.time() * 1000)
    run = client.create_run(model.experiment_id, now, tags, "probe").info.run_id
    params = [Param(name, str(value)) for name, value in load.items()]
    metrics = [
        Metric(name, value, now, 0, model.model_id, None, None, run)
        for name, value in measured.items()
    ]
    client.log_batch(run, metrics=metrics, params=params)
    client.set_terminated(run, "FINISHED")
    return run


def main() -> None:
    parser = ArgumentParser(description="Measure a model's server on this machine.")
    parser.add_argument(
        "model", help="the model that the server should have: a run's id, or models:/NAME@ALIAS"
    )
    parser.add_argument("url", help="http://127.0.0.1:PORT")
    parser.add_argument(
        "--requests",
        type=int,
        default=200,
        metavar="N",
        help="maximum number (default: %(default)s)",
    )
    parser.add_argument(
        "--clients",
        type=int,
        default=1,
        metavar="N",
        help="number in parallel (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=int, default=20, metavar="N", help="maximum time (default: %(default)s)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=1,
        metavar="N",
        help="number per request (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    load = Load(args.requests, args.clients, args.seconds, args.images)
    code = probe(args.model, args.url, load, as_json=args.json)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    errors.run(main)
