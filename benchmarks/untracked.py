"""A stage without its tracking, `python benchmarks/untracked.py train`: what the pipeline costs if nobody watches."""

import gc
import runpy
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType


class Journal:
    """Takes every call, and does nothing."""

    id = "untracked"

    def __init__(self, **_: object) -> None:
        self.header = {"inputs": "", "machine": "", "dataset": "", "experiment": {}, "deps": defaultdict(str)}

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


def start() -> Journal:
    gc.disable()
    return Journal()


@contextmanager
def stage(*_: object) -> Iterator[Journal]:
    gc.freeze()
    gc.enable()
    yield Journal()


def replace() -> None:
    """A stage that is run in this process is not tracked."""
    replaced: dict[str, dict[str, object]] = {
        "retrace.tracking": {"start": start, "stage": stage},
        "retrace.journal": {"Journal": Journal, "now": lambda: 0},
    }
    for name, held in replaced.items():
        sys.modules[name] = ModuleType(name)  # in the place of the real one, whose imports are a part of its cost
        vars(sys.modules[name]).update(held)


def main() -> None:
    replace()
    runpy.run_path(f"stages/{sys.argv[1]}.py", run_name="__main__")


if __name__ == "__main__":
    main()
