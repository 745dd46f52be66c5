"""The callbacks of training: event log, terminal, reports/ and checkpoints."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from lab import paths, stage_files
from lab.errors import DivergedError
from lab.params import AUTO
from lab.training import batch_size, progress, records, state_file, watchdog
from lab.training.device import Compute
from lab.training.loop import Trainer
from lab.training.progress import Lines
from lab.training.state import Epoch, Step, Values
from lab.training.watchdog import Watchdog
from retrace import Run, checkpoint, errors, event_log
from retrace.checkpoint import Checkpoints
from retrace.errors import Terminated

MAX_STEPS = 1000  # rows of reports/steps.csv
BATCH_SAMPLES = 64  # in reports/batch.safetensors, at most


class Recorder:
    """The record of one training. Training time is measured from its creation."""

    lines: Lines
    watchdog: Watchdog

    def __init__(self, run: Run, checkpoints: Checkpoints, trainer: Trainer) -> None:
        self.run = run
        self.checkpoints = checkpoints
        self.trainer = trainer
        self.state = trainer.state
        self.epochs = trainer.p.epochs
        self.total_steps = trainer.total_steps
        self.every = -(-trainer.total_steps // MAX_STEPS)
        self.steps: stage_files.Table = []
        self._unread: list[Step] = []  # reading their losses waits for the device
        self._epoch_times: list[tuple[int, float]] = []  # of each epoch: its end, images per second
        self._started = time.perf_counter()

    @property
    def history(self) -> stage_files.Table:
        """The metrics of all epochs so far."""
        return [epoch._asdict() for epoch in self.state.epochs]

    @property
    def diagnosis(self) -> str:
        """One sentence on underfitting and overfitting."""
        return records.diagnosis(self.history)

    @property
    def siblings(self) -> str:
        """What this training has in common with those in other numbers of processes."""
        return _fingerprint(self.run, self.trainer.compute, without="processes")

    @property
    def seconds(self) -> float:
        """Training time so far in seconds, including interrupted processes."""
        return time.perf_counter() - self._started

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Resume from the newest checkpoint, show progress, and save a checkpoint at the end.

        SIGINT and SIGTERM end training with a checkpoint too.
        """
        with (
            progress.follow(self.epochs, self.total_steps) as self.lines,
            watchdog.watching(self.total_steps // self.epochs) as self.watchdog,
        ):
            self._resume()
            try:
                yield
            except (KeyboardInterrupt, Terminated):
                with errors.Deferred(), suppress(DivergedError):
                    self.save()
                raise
            self.save()

    def on_step(self, step: Step) -> None:
        """Record a step, and save a checkpoint if one is due."""
        self.watchdog.step(step)
        self.lines.step(step)
        if (step.step - 1) % self.every == 0:
            self._unread.append(step)
        if self.checkpoints.is_due:
            self.save()

    def on_epoch(self, epoch: Epoch) -> None:
        """Show and log an epoch, and make its events durable."""
        self.watchdog.epoch(epoch)
        self.lines.epoch(epoch)
        self._log(epoch, event_log.now(), self.lines.images_per_s)
        self.run.sync()

    def save(self) -> None:
        """Save the training state and this record as a checkpoint."""
        self.checkpoints.save(
            self.state.step,
            lambda: state_file.encode(self.state.state_dict() | self._own_state()),
        )

    def finish(self, kept: Epoch) -> None:
        """Log the summary metrics, those of the kept epoch, and write the tables in reports/."""
        self.run.log({"train_s": self.seconds, "kept_epoch": kept.epoch})
        self.run.summary(metrics(kept))
        self.run.set_tags({"retrace.diagnosis": self.diagnosis})
        stage_files.save_table(paths.HISTORY, self.history)
        self._read_steps()
        stage_files.save_table(paths.STEPS, self.steps)

    def _resume(self) -> None:
        """Load the newest checkpoint, if there is one, and log its epochs to this run."""
        values = self.checkpoints.newest(state_file.load)
        if self.trainer.p.processes > 1:  # the others start from the same checkpoint
            self.trainer.group.broadcast(state_file.encode(values) if values else b"")
        if values is None:
            self._name_others()
            return
        self.state.load_state_dict(values)
        self.steps = values["steps"]
        self._started = time.perf_counter() - values["seconds"]
        self.lines.resume(values["n_images"], values["epoch_s"])
        for epoch, (at, images_per_s) in zip(self.state.epochs, values["epoch_times"], strict=True):
            self._log(epoch, at, images_per_s)
        resumed = f"after step {self.state.step} of {values['run']}"
        self.run.set_tags({"retrace.resumed": resumed})
        print(f"resumed from step {self.state.step:,} of {self.total_steps:,}", flush=True)

    def _name_others(self) -> None:
        """Name the checkpoints of this training in another number of processes: not resumed."""
        for folder in checkpoint.folders():
            facts: Values = {}
            with suppress(OSError, *checkpoint.FOREIGN):  # removed meanwhile, or damaged
                facts = checkpoint.facts(checkpoint.in_folder(folder)[-1])
            if facts.get("siblings") == self.siblings:
                other = facts["processes"]
                print(
                    f"not resumed from step {facts['step']:,} of this training with processes "
                    f"{other}: the results would differ; to resume it, use -S processes={other}",
                    flush=True,
                )

    def _own_state(self) -> Values:
        self._read_steps()
        return {
            "run": self.run.id,
            "training": " ".join(
                [self.run.header["mlflow_experiment"], *self.run.header["experiment"].values()][:2]
            ),
            "siblings": self.siblings,
            "processes": self.trainer.p.processes,
            "batch_size": self.trainer.p.batch_size,
            "steps": self.steps,
            "epoch_times": self._epoch_times,
            "seconds": self.seconds,
            "n_images": self.lines.n_images,
            "epoch_s": self.lines.seconds,
        }

    def _read_steps(self) -> None:
        for step in self._unread:
            row = {"step": step.step, "learning_rate": step.learning_rate, "loss": step.loss.item()}
            self.steps.append(row)
        self._unread = []

    def _log(self, epoch: Epoch, at: int, images_per_s: float) -> None:
        self._epoch_times.append((at, images_per_s))
        self.run.log(metrics(epoch) | {"images_per_s": images_per_s}, epoch.epoch, at)


def metrics(epoch: Epoch) -> dict[str, float]:
    """Return an epoch's metrics by name."""
    return {name: value for name, value in epoch._asdict().items() if name != "epoch"}


def choose_batch_size(run: Run, checkpoints: Checkpoints, trainer: Trainer) -> None:
    """Choose what `batch_size: auto` is, and log it; a resumed training uses its first choice."""
    if trainer.p.batch_size != AUTO:
        return
    size = checkpoints.newest(lambda path: int(checkpoint.facts(path)["batch_size"]))
    batch_size.use(trainer, size or batch_size.choose(trainer))
    run.log({"batch_size": trainer.p.batch_size})
    size = trainer.p.batch_size
    print(f"batch_size auto is {size}; -S batch_size={size} repeats it", flush=True)


def fingerprint(run: Run, compute: Compute) -> str:
    """Return the fingerprint of everything that determines the trained weights bit for bit."""
    header = run.header
    return checkpoint.fingerprint(
        header["inputs"], header["machine"], str(compute), torch.__version__
    )


def _fingerprint(run: Run, compute: Compute, *, without: str) -> str:
    """Return the fingerprint as if the stage did not read a parameter."""
    header = run.header
    params = {name: value for name, value in header["own_params"].items() if name != without}
    inputs = json.dumps([params, header["deps"]], sort_keys=True, default=str)
    return checkpoint.fingerprint(inputs, header["machine"], str(compute), torch.__version__)


def follow(trainer: Trainer) -> None:
    """Train as another process than the first, from the same checkpoint, without a record."""
    content = trainer.group.broadcast(b"")
    if content:
        trainer.state.load_state_dict(state_file.decode(content))
    trainer.train(lambda _: None, lambda _: None)


def save_first_batch(trainer: Trainer) -> None:
    """Write the first batch, as the model will see it, to reports/batch.safetensors."""
    inputs, labels = trainer.first_batch()
    records.save_batch(inputs[:BATCH_SAMPLES].cpu().numpy(), labels[:BATCH_SAMPLES].cpu().numpy())
