"""The checks of `retrace doctor`: one file per topic, with its check functions in `CHECKS`.

A check yields findings, each problem with the command that repairs it, and changes nothing. To add
one, write a function in its topic's file and add it to that file's `CHECKS`. Other packages add
topics by entry points in the group `retrace.doctor`. Topics are imported when they are checked, so
that a missing or broken package affects only the checks that need it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from threading import Thread
from types import ModuleType

from retrace import plugins
from retrace.doctor.findings import Finding, problem, rebuild

TOPICS = (
    "machine",
    "repository",
    "features",
    "pipeline",
    "experiments",
    "cache",
    "store",
    "leftovers",
)
ANSWER_S = 20.0  # for all checks of a topic


def examine() -> list[Finding]:
    """Check all topics at the same time; return the findings, those of plug-ins first.

    A check that fails or hangs is a problem too.
    """
    topics: dict[str, Callable[[], ModuleType]] = {
        name: entry.load for name, entry in plugins.entries("doctor").items()
    }
    topics |= {name: partial(import_module, f"retrace.doctor.{name}") for name in TOPICS}
    findings: dict[str, list[Finding]] = {topic: [] for topic in topics}
    threads = {}
    for topic, load in topics.items():
        threads[topic] = Thread(target=_check, args=(topic, load, findings[topic]), daemon=True)
        threads[topic].start()
    for topic, thread in threads.items():
        thread.join(ANSWER_S)
        if thread.is_alive():
            reason = f"no answer within {ANSWER_S:.0f} s; later checks of this topic did not run"
            findings[topic].append(problem(reason).named(topic))
    return [finding for topic in topics for finding in findings[topic]]


def _check(topic: str, load: Callable[[], ModuleType], findings: list[Finding]) -> None:
    try:
        checks = load().CHECKS
    except Exception as error:  # noqa: BLE001 - a broken environment may raise anything
        findings.append(_failed(error).named(topic))
        return
    for name, check in checks.items():
        findings.extend(finding.named(name) for finding in _guarded(check()))


def _guarded(findings: Iterator[Finding]) -> Iterator[Finding]:
    try:
        yield from findings
    except Exception as error:  # noqa: BLE001 - a library may raise anything
        yield _failed(error)


def _failed(error: Exception) -> Finding:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if isinstance(error, ImportError):
        return problem(f"cannot be checked: a package is missing or broken ({reason})", rebuild())
    return problem(f"cannot be checked ({reason})")
