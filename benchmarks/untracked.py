"""Run a stage without tracking, to measure its cost: `python benchmarks/untracked.py train`."""

import runpy
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType


class Run:
    """A run that accepts every call and does nothing."""

    id = "untracked"

    def __init__(self, **_: object) -> None:
        self.header = {
            "inputs": "",
            "machine": "",
            "mlflow_experiment": "",
            "experiment": {},
            "deps": defaultdict(str),
        }

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


@contextmanager
def stage(*_: object) -> Iterator[Run]:
    yield Run()


def replace() -> None:
    """Replace tracking by stubs, for stages run in this process."""
    replaced: dict[str, dict[str, object]] = {
        "retrace.tracking.stage": {"stage": stage},
        "retrace.tracking.run": {"Run": Run},
        "retrace.event_log": {"now": lambda: 0},
    }
    for name, attributes in replaced.items():
        module = ModuleType(name)  # the real module's imports are part of its cost
        vars(module).update(attributes)
        sys.modules[name] = module


def main() -> None:
    replace()
    runpy.run_path(f"stages/{sys.argv[1]}.py", run_name="__main__")


if __name__ == "__main__":
    main()
