"""Progress of training: a bar in a terminal, a line for each epoch elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from lab.training.state import Epoch, Step

MAX_LINES = 30  # for epochs, besides the first and the last
EVERY_S = 0.2  # reading a loss waits for the device


class Lines:
    """A line for each epoch; with more than MAX_LINES epochs, only for some.

    `images_per_s` is that of the last epoch, validation included; `n_images` and `seconds` count
    the epoch so far.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.images_per_s = 0.0
        self.resume(0, 0.0)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._since

    def resume(self, n_images: int, seconds: float) -> None:
        """Set how far this epoch was when training was interrupted."""
        self.n_images = n_images
        self._since = time.perf_counter() - seconds

    def step(self, step: Step) -> None:
        self.n_images += step.n_images

    def epoch(self, epoch: Epoch) -> None:
        self.images_per_s = self.n_images / self.seconds
        self.resume(0, 0.0)
        if epoch.epoch % -(-self.epochs // MAX_LINES) and epoch.epoch not in (1, self.epochs):
            return
        self._print(
            f"epoch {epoch.epoch}/{self.epochs}  "
            f"train loss {epoch.train_loss:.4f} accuracy {epoch.train_accuracy:.2%}  "
            f"validation loss {epoch.val_loss:.4f} accuracy {epoch.val_accuracy:.2%}  "
            f"{self.images_per_s:,.0f} images/s"
        )

    def _print(self, line: str) -> None:
        print(line, flush=True)


class Bar(Lines):
    """A bar with steps, loss and accuracy of the last step, images per second, and time left."""

    def __init__(self, epochs: int, total_steps: int, bar: Progress) -> None:
        super().__init__(epochs)
        self.bar = bar
        self.task = bar.add_task("train", total=total_steps, metrics="")
        self._drawn = 0.0

    def step(self, step: Step) -> None:
        super().step(step)
        now = time.perf_counter()
        if now - self._drawn < EVERY_S:
            return
        self._drawn = now
        accuracy = step.n_correct.item() / step.n_images
        speed = self.n_images / self.seconds
        metrics = f"loss {step.loss.item():.4f}  accuracy {accuracy:6.1%}  {speed:,.0f} images/s"
        self.bar.update(self.task, completed=step.step, metrics=metrics, refresh=True)

    def _print(self, line: str) -> None:
        self.bar.console.print(line, highlight=False)


@contextmanager
def follow(epochs: int, total_steps: int) -> Iterator[Lines]:
    """Yield the listener that shows progress on standard output."""
    if not sys.stdout.isatty():
        yield Lines(epochs)
        return
    # Without a thread that redraws: it would take a core from training.
    with Progress(*columns(), console=Console(), auto_refresh=False, transient=True) as bar:
        yield Bar(epochs, total_steps, bar)


def columns() -> tuple[ProgressColumn, ...]:
    """Return the bar's columns, from left to right."""
    return (
        MofNCompleteColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[metrics]}", style="none"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
