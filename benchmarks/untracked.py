"""A stage without its tracking, `python benchmarks/untracked.py train`: what the pipeline costs if nobody watches."""

import runpy
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType


class EventLog:
    """Takes every call, and does nothing."""

    id = "untracked"

    def __init__(self, **_: object) -> None:
        self.header = {
            "inputs": "",
            "machine": "",
            "dataset": "",
            "experiment": {},
            "deps": defaultdict(str),
        }

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


@contextmanager
def stage(*_: object) -> Iterator[EventLog]:
    yield EventLog()


def replace() -> None:
    """A stage that is run in this process is not tracked."""
    replaced: dict[str, dict[str, object]] = {
        "retrace.tracking.stage": {"stage": stage},
        "retrace.event_log": {"EventLog": EventLog, "now": lambda: 0},
    }
    for name, held in replaced.items():
        sys.modules[name] = ModuleType(
            name
        )  # in the place of the real one, whose imports are a part of its cost
        vars(sys.modules[name]).update(held)


def main() -> None:
    replace()
    runpy.run_path(f"stages/{sys.argv[1]}.py", run_name="__main__")


if __name__ == "__main__":
    main()
