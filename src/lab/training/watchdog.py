"""A warning if training stands still. Training itself knows nothing of it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from lab.training.state import Epoch, Step

QUIET_S = 120.0  # without a step
CHECKS = 4  # within that time: time in which the whole process was stopped counts once
PREFIXES = ("OMP_", "GOMP_", "KMP_", "MKL_")


class Watchdog:
    """Counts the steps. It does not watch validation, which has none."""

    def __init__(self, steps_per_epoch: int) -> None:
        self._steps_per_epoch = steps_per_epoch
        self.state = (0, True)  # events so far, and whether a step is expected
        self.ended = Event()

    def step(self, step: Step) -> None:
        self.state = (self.state[0] + 1, step.step % self._steps_per_epoch != 0)

    def epoch(self, _: Epoch) -> None:
        self.state = (self.state[0] + 1, True)

    def watch(self) -> None:
        """Warn on stderr after QUIET_S without a step; again after twice that time, and so on."""
        patience = CHECKS
        quiet = 0
        before = self.state
        while not self.ended.wait(QUIET_S / CHECKS):
            is_quiet = self.state == before and before[1]
            before = self.state
            quiet = quiet + 1 if is_quiet else 0
            if quiet == patience:
                print(warning(QUIET_S * quiet / CHECKS), file=sys.stderr, flush=True)
                patience *= 2


def warning(seconds: float) -> str:
    """Return the warning after `seconds` without a step."""
    variables = [
        f"{name}={value}" for name, value in os.environ.items() if name.startswith(PREFIXES)
    ]
    causes = f"thread variables ({', '.join(sorted(variables)) or 'none is set'})"
    remedy = "look with `top`, or stop this and use -S threads=1"
    state = f"warning: no training step ended within {seconds:.0f} s"
    return f"{state}; likely causes: another busy process, or {causes}; {remedy}"


@contextmanager
def watching(steps_per_epoch: int) -> Iterator[Watchdog]:
    """Yield a watchdog in a thread of its own, until the end of the context."""
    watchdog = Watchdog(steps_per_epoch)
    thread = Thread(target=watchdog.watch, daemon=True, name="watchdog")
    thread.start()
    try:
        yield watchdog
    finally:
        watchdog.ended.set()
        thread.join()
