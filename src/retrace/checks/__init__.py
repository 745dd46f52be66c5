"""What `retrace doctor` looks for: a file here is a part of what can be wrong, its `CHECKS` a function each.

A check yields what it finds, each problem with the command that mends it, and changes nothing. To add one: a function
in such a file, and its name in the file's `CHECKS`. The files are imported when they are asked, and a package that is
missing or broken costs only those checks that need it.
"""

from collections.abc import Iterator
from importlib import import_module
from threading import Thread

from retrace.checks.findings import REBUILD, Finding, problem

PARTS = ("environment", "machine", "repository", "pipeline", "experiments", "cache", "store", "left")
ANSWER_S = 20.0  # in which a part has to be done


def examine() -> list[Finding]:
    """All that is found, in the order of `PARTS`, which are looked at side by side. What fails or hangs is a problem
    too.
    """
    found: dict[str, list[Finding]] = {part: [] for part in PARTS}
    threads = {part: Thread(target=_look, args=(part, found[part]), daemon=True) for part in PARTS}
    for thread in threads.values():
        thread.start()
    for part, thread in threads.items():
        thread.join(ANSWER_S)
        if thread.is_alive():
            found[part].append(problem(f"no answer within {ANSWER_S:.0f} s; what follows is not known").of(part))
    return [finding for part in PARTS for finding in found[part]]


def _look(part: str, found: list[Finding]) -> None:
    try:
        checks = import_module(f"retrace.checks.{part}").CHECKS
    except Exception as error:  # noqa: BLE001 - of a broken environment
        found.append(_failed(error).of(part))
        return
    for name, check in checks.items():
        found.extend(finding.of(name) for finding in _guarded(check()))


def _guarded(findings: Iterator[Finding]) -> Iterator[Finding]:
    try:
        yield from findings
    except Exception as error:  # noqa: BLE001 - whatever a broken repository makes of a library
        yield _failed(error)


def _failed(error: Exception) -> Finding:
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if isinstance(error, ImportError):
        return problem(f"cannot be looked at, for a package is missing or broken ({said})", REBUILD)
    return problem(f"cannot be looked at ({said})")
