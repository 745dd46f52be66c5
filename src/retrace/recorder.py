"""What training tells, for the journal, the terminal, reports/ and the checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from retrace import errors, journal, paths, reports
from retrace.checkpoint import Checkpoints
from retrace.errors import DivergedError, Terminated
from retrace.journal import EventLog
from retrace.progress import Lines
from retrace.state import Epoch, State, Step, Values

MAX_STEPS = 1000  # rows of reports/steps.csv


class Recorder:
    """Listens to a training that began then, whose state is `state`, of `total_steps` steps at most."""

    def __init__(
        self, run: EventLog, lines: Lines, checkpoints: Checkpoints, state: State, total_steps: int, began: float
    ) -> None:
        self.run, self.lines, self.checkpoints, self.state = run, lines, checkpoints, state
        self.total_steps, self.every = total_steps, -(-total_steps // MAX_STEPS)
        self.steps: reports.History = []
        self._latest: list[Step] = []  # whose losses nobody has read yet
        self._told: list[tuple[int, float]] = []  # of each epoch: when, and images a second
        self._began = began

    @property
    def history(self) -> reports.History:
        return [epoch._asdict() for epoch in self.state.epochs]

    @property
    def seconds(self) -> float:
        """That training took so far, in this process and those that it goes on from."""
        return time.perf_counter() - self._began

    def step(self, step: Step) -> None:
        self.lines.step(step)
        if (step.step - 1) % self.every == 0:
            self._latest.append(step)
        if self.checkpoints.is_due:
            self.save()

    def epoch(self, epoch: Epoch) -> None:
        self.lines.epoch(epoch)
        self._tell(epoch, journal.now(), self.lines.images_per_s)
        self.run.sync()

    def report(self) -> None:
        """reports/ has the epochs and the steps."""
        reports.save_table(paths.HISTORY, self.history)
        self._read()
        reports.save_table(paths.STEPS, self.steps)

    def resume(self) -> None:
        """Training goes on from the newest checkpoint, if there is one; the journal has all the epochs again."""
        if (found := self.checkpoints.newest()) is None:
            return
        self.state.load_state_dict(found)
        self.steps, self._began = found["steps"], time.perf_counter() - found["seconds"]
        self.lines.resume(found["n_images"], found["epoch_s"])
        for epoch, (at, images_per_s) in zip(self.state.epochs, found["told"], strict=True):
            self._tell(epoch, at, images_per_s)
        self.run.tags(**{"retrace.resumed": f"after step {self.state.step} of {found['run']}"})
        print(f"goes on after step {self.state.step:,} of {self.total_steps:,}", flush=True)

    def save(self) -> None:
        """A checkpoint."""
        self.checkpoints.save(self.state.step, self.state.state_dict() | self._own_state())

    @contextmanager
    def saving(self) -> Iterator[None]:
        """At the end there is a checkpoint of the very step, also if the end is a signal's."""
        try:
            yield
        except (KeyboardInterrupt, Terminated):
            with errors.Deferred(), suppress(DivergedError):
                self.save()
            raise
        self.save()

    def _own_state(self) -> Values:
        self._read()
        return {
            "run": self.run.id,
            "of": " ".join([self.run.header["dataset"], *self.run.header["experiment"].values()][:2]),
            "steps": self.steps,
            "told": self._told,
            "seconds": self.seconds,
            "n_images": self.lines.n_images,
            "epoch_s": self.lines.seconds,
        }

    def _read(self) -> None:
        self.steps += [{"step": s.step, "learning_rate": s.learning_rate, "loss": s.loss.item()} for s in self._latest]
        self._latest = []

    def _tell(self, epoch: Epoch, at: int, images_per_s: float) -> None:
        self._told.append((at, images_per_s))
        self.run.metrics(figures(epoch) | {"images_per_s": images_per_s}, epoch.epoch, at)


def figures(epoch: Epoch) -> dict[str, float]:
    """By the names that metrics have everywhere."""
    return {name: value for name, value in epoch._asdict().items() if name != "epoch"}
