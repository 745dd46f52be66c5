"""`retrace probe`: how fast a served model answers, and whether it says what the model says here."""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count
from threading import Event, Lock
from urllib.parse import urlsplit

import numpy as np
import requests

from retrace import paths, splits
from retrace.errors import RetraceError
from retrace.provenance import models
from retrace.tracking import probes, served, store

HERE = ("127.0.0.1", "localhost", "::1")
MOST = {"requests": 10_000, "clients": 8, "seconds": 120, "images": 100}  # of load, on a machine that others use too
TOLERANCE = 1e-5  # between probabilities in float32, summed in another order
WAIT_S = 10.0  # for one answer, at most
SHOWN = 16  # bodies that are sent in turns


@dataclass(frozen=True)
class Load:
    """What is asked: at most so many requests, of so many images each, by so many clients at once, for so long."""

    requests: int
    clients: int
    seconds: int
    images: int


@dataclass(frozen=True)
class Measured:
    """What came of it: milliseconds an answer, images a second over all clients, answers that were none, and how far
    probabilities were from those here.
    """

    answers: int
    failed: int
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    images_per_s: float
    largest_difference: float


@dataclass(frozen=True)
class Question:
    """A request's body, and the probabilities that are right."""

    body: bytes
    expected: np.ndarray


def probe(model: str, url: str, load: Load, *, as_json: bool) -> int:
    """Print how the server at `url` bears `load`, and log it in a run of its own beside the model's, unless the answers
    are another model's; 0 if every answer was right, else 1. Raises RetraceError where it is not on this machine, where
    nothing answers, and where `load` is more than `MOST`.
    """
    address = checked(url, load)
    with store.answering():
        known = models.resolve_model(model)
        questions = asked(served.load(known.model_id, "cpu").probabilities, known.model_id, load)
    _first(address, questions[0])
    measured = measure(address, questions, load)
    run = None
    if measured.answers and measured.largest_difference <= TOLERANCE:
        with store.answering():
            run = probes.log(store.client(), known, asdict(load), asdict(measured))
    if as_json:
        print(json.dumps({"model": model, "url": url, "run": run} | asdict(load) | asdict(measured)))
    else:
        print(*_lines(model, load, measured), f"logged in run {run}" if run else "not logged", sep="\n")
    return 0 if run and not measured.failed else 1


def checked(url: str, load: Load) -> str:
    """Where images are sent to. Raises RetraceError where that is another machine, or the load is too much."""
    try:
        parts = urlsplit(url)
        is_here = parts.scheme == "http" and parts.hostname in HERE and parts.port and parts.username is None
        is_here = is_here and not (parts.path.strip("/") or parts.query or parts.fragment)
    except ValueError:  # as of a port that is no number
        is_here = False
    if not is_here:
        said = f"should be http://127.0.0.1:PORT: this command puts load on {', '.join(HERE)} alone"
        raise RetraceError(f"URL is {url!r}; {said}")
    for name, value in asdict(load).items():
        if not 1 <= value <= MOST[name]:
            raise RetraceError(f"--{name} is {value}; should be 1 to {MOST[name]:,}")
    return f"{url.rstrip('/')}/invocations"


def asked(probabilities: probes.Probabilities, name: str, load: Load) -> list[Question]:
    """Requests with images of the test part, each another, as many as are sent in turns; their bodies are (n, channels,
    height, width), raw. Raises RetraceError where the model takes no such inputs.
    """
    samples, _ = splits.load(paths.TEST)
    questions = []
    for first in range(0, len(samples), load.images)[: min(SHOWN, load.requests)]:
        inputs = np.array(samples.inputs[first : first + load.images])
        try:
            expected = probabilities(inputs)
        except Exception as error:  # noqa: BLE001 - MLflow's own, which only tracking/ may name
            said = " ".join(str(error).split())[-120:]
            raise RetraceError(
                f"{paths.TEST}: no inputs of model {name}: {said}; make the parts that it was made for"
            ) from None
        questions.append(Question(json.dumps({"inputs": inputs.tolist()}).encode(), expected))
    return questions


def measure(address: str, questions: Sequence[Question], load: Load) -> Measured:
    """The load, borne: no request is begun after the last one, nor when the time is over."""
    ends, interrupted, lock, numbers = time.monotonic() + load.seconds, Event(), Lock(), count()

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
            told = [one for of_one in pool.map(lambda _: list(client()), range(load.clients)) for one in of_one]
        finally:
            interrupted.set()
    took = time.perf_counter() - began
    right = [(seconds, difference, n) for seconds, difference, n in told if difference is not None]
    p50, p95, p99 = np.percentile([1000 * seconds for seconds, *_ in right], [50, 95, 99]) if right else [0.0] * 3
    return Measured(
        answers=len(right),
        failed=len(told) - len(right),
        latency_p50_ms=float(p50),
        latency_p95_ms=float(p95),
        latency_p99_ms=float(p99),
        images_per_s=sum(n for *_, n in right) / took,
        largest_difference=max((difference for _, difference, _ in right), default=0.0),
    )


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy is between
    session.headers["Content-Type"] = "application/json"
    return session


def _difference(session: requests.Session, address: str, question: Question) -> float | None:
    """The largest, of a probability, between the answer and what is right; None where there is no answer."""
    try:
        given = _given(session.post(address, question.body, timeout=WAIT_S, allow_redirects=False), question)
    except requests.RequestException:
        return None
    return None if given is None else float(np.abs(given - question.expected).max())


def _given(answer: requests.Response, question: Question) -> np.ndarray | None:
    """The probabilities in an answer; None where it has none, or not one a class."""
    try:
        given = np.array(answer.json()["predictions"], float) if answer.status_code == 200 else np.empty(0)
    except (ValueError, LookupError, TypeError):  # no JSON of that kind
        return None
    return given if given.shape == question.expected.shape and np.isfinite(given).all() else None


def _first(address: str, question: Question) -> None:
    """One answer before those that are measured; raises RetraceError where there is none."""
    with _session() as session:
        try:
            answer = session.post(address, question.body, timeout=WAIT_S, allow_redirects=False)
        except requests.RequestException as error:
            todo = "start it: mlflow models serve -m MODEL --env-manager local --port 5001"
            raise RetraceError(f"{address}: does not answer ({type(error).__name__}); {todo}") from None
    if _given(answer, question) is None:
        said = ascii(" ".join(answer.text.split())[:120])
        raise RetraceError(f"{address}: answers {answer.status_code}, {said}; it is no server of this model")


def _lines(model: str, load: Load, measured: Measured) -> Iterator[str]:
    asked = f"{load.images} images a request, {load.clients} at once"
    yield f"{measured.answers:,} answers, {measured.failed:,} failures ({asked})"
    latencies = {"p50": measured.latency_p50_ms, "p95": measured.latency_p95_ms, "p99": measured.latency_p99_ms}
    said = ", ".join(f"{name} {value:.1f} ms" for name, value in latencies.items())
    yield f"latency {said}; {measured.images_per_s:,.0f} images/s"
    is_same = measured.largest_difference <= TOLERANCE
    said = f"as {model} has them here" if is_same else f"OTHERS than {model} has here: another model is served"
    yield f"probabilities {said}, to {measured.largest_difference:.0e}"
