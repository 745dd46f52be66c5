"""How far training is: a bar in a terminal, a line an epoch elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from retrace.state import Epoch, Step

MAX_LINES = 30  # of epochs, and the first and the last
EVERY_S = 0.2  # reading a loss waits for the device


class Lines:
    """A line an epoch, for logs; of many epochs, some. `images_per_s` is the last epoch's, its validation included.

    `n_images` and `seconds` are this epoch's so far.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.images_per_s = 0.0
        self.resume(0, 0.0)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._since

    def resume(self, n_images: int, seconds: float) -> None:
        """The epoch is as far as it was in another process."""
        self.n_images, self._since = n_images, time.perf_counter() - seconds

    def step(self, step: Step) -> None:
        self.n_images += step.n_images

    def epoch(self, epoch: Epoch) -> None:
        self.images_per_s = self.n_images / self.seconds
        self.resume(0, 0.0)
        if epoch.epoch % -(-self.epochs // MAX_LINES) and epoch.epoch not in (1, self.epochs):
            return
        self._say(
            f"epoch {epoch.epoch}/{self.epochs}  "
            f"train loss {epoch.train_loss:.4f} accuracy {epoch.train_accuracy:.2%}  "
            f"validation loss {epoch.val_loss:.4f} accuracy {epoch.val_accuracy:.2%}  "
            f"{self.images_per_s:,.0f} images/s"
        )

    def _say(self, line: str) -> None:
        print(line, flush=True)


class Bar(Lines):
    """In a terminal: steps done, loss and accuracy of the last step, images a second, time left."""

    def __init__(self, epochs: int, total_steps: int, bar: Progress) -> None:
        super().__init__(epochs)
        self.bar = bar
        self.task = bar.add_task("train", total=total_steps, told="")
        self._drawn = 0.0

    def step(self, step: Step) -> None:
        super().step(step)
        now = time.perf_counter()
        if now - self._drawn < EVERY_S:
            return
        self._drawn = now
        accuracy, speed = step.n_correct.item() / step.n_images, self.n_images / self.seconds
        told = f"loss {step.loss.item():.4f}  accuracy {accuracy:6.1%}  {speed:,.0f} images/s"
        self.bar.update(self.task, completed=step.step, told=told, refresh=True)

    def _say(self, line: str) -> None:
        self.bar.console.print(line, highlight=False)


@contextmanager
def follow(epochs: int, total_steps: int) -> Iterator[Lines]:
    """Yield what shows the progress of `total_steps` steps on standard output."""
    if not sys.stdout.isatty():
        yield Lines(epochs)
        return
    # No thread of its own to redraw: it would take a core from training.
    with Progress(*columns(), console=Console(), auto_refresh=False, transient=True) as bar:
        yield Bar(epochs, total_steps, bar)


def columns() -> tuple[ProgressColumn, ...]:
    """Of the bar, from left to right."""
    return (
        MofNCompleteColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[told]}", style="none"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
