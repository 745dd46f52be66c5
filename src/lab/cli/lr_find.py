"""`retrace lr-find`: suggest a learning rate by a range test, and keep nothing but its figure."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from argparse import ArgumentParser, Namespace
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lab import paths
from retrace.cli import arguments
from retrace.errors import RetraceError
from retrace.system import files

if TYPE_CHECKING:
    from lab.params import Train
    from lab.training.loop import Trainer

GROUP = "run"
SUMMARY = (
    "suggest a learning rate: train for some steps while it rises, and keep nothing but a figure"
)
EXAMPLES = (
    "retrace lr-find                    for params.yaml as it is",
    "retrace lr-find -S model=lenet     for another network; repeat -S for more",
    "retrace lr-find --json | jq .lr    the number alone",
)
FIGURE = Path(".retrace/lr-find.png")  # in the main repository
MIN_STEPS = 20


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)
    text = "change a parameter, as for `dvc exp run`; params.yaml stays as it is"
    parser.add_argument("-S", "--set-param", action="append", default=[], metavar="K=V", help=text)
    text = "number of steps (default: %(default)s)"
    parser.add_argument("--steps", type=int, default=100, metavar="N", help=text)


def run(args: Namespace) -> None:
    if args.steps < MIN_STEPS:
        raise RetraceError(f"--steps is {args.steps}; should be {MIN_STEPS} or more")
    find(args.set_param, args.steps, as_json=args.json)


def find(changes: list[str], n_steps: int, *, as_json: bool) -> None:
    """Print the suggestion, the figure's path and the command that trains with the suggestion.

    Raises ParamsError for invalid parameters, DataError if data/processed is missing, and
    RetraceError if there is nothing to suggest.
    """
    from lab.report.figures import lr_range
    from lab.training import device, lr_finder

    with redirect_stdout(sys.stderr):
        trainer = _trainer(_changed(changes))
        with device.enough_memory(trainer.p.batch_size):
            points = lr_finder.test(trainer, n_steps)
    rate = lr_finder.suggestion(points)
    best = lr_finder.lowest(points)
    figure = files.root() / FIGURE
    curves = zip(*((point.lr, point.loss, point.smoothed) for point in points), strict=True)
    lr_range.save(figure, *curves, suggestion=rate)
    words = (f"-S {shlex.quote(change)}" for change in changes)
    command = " ".join(["dvc exp run", *words, f"-S lr={rate:g}"])
    if as_json:
        facts = {"lr": rate, "lowest_loss": best.smoothed, "lowest_loss_lr": best.lr}
        facts |= {"batch_size": trainer.p.batch_size, "figure": str(figure), "command": command}
        print(json.dumps(facts | {"steps": [vars(point) for point in points]}, indent=2))
        return
    print(f"{len(points)} steps with batches of {trainer.p.batch_size}, on {trainer.compute}")
    print(f"lowest smoothed loss: {best.smoothed:.4g}, at a learning rate of {best.lr:.2g}")
    print(f"suggested peak learning rate, a tenth of that: {rate:g}")
    print(f"figure: {figure}")
    print(f"next: {command}")


def _changed(changes: list[str]) -> Train:
    """Return the parameters of the train stage with changes, for one process."""
    from lab import params

    own = params.load(params.Train)
    if changes:
        from retrace.pipeline import dvc_overrides

        with TemporaryDirectory() as folder:
            copied = Path(shutil.copy(paths.PARAMS, folder))
            dvc_overrides.set_params(copied, changes)
            own = params.load(params.Train, copied)
            _check_same_data(copied)
    return own.model_copy(update={"processes": 1})


def _check_same_data(changed: Path) -> None:
    """Raise RetraceError if changed parameters ask for other data than that in data/processed."""
    from lab import params

    before = params.load(params.Preprocess)
    after = params.load(params.Preprocess, changed)
    for key in params.Preprocess.model_fields:
        if getattr(before, key) != getattr(after, key):
            raise RetraceError(
                f"-S {key}: data/processed is made with another {key}; set it in params.yaml, "
                "type `dvc repro preprocess`, then this command without it"
            )


def _trainer(p: Train) -> Trainer:
    """Return the trainer of the train stage, with its batch size as a number."""
    from lab import params
    from lab.training import batch_size, device, preparation

    trainer, _ = preparation.prepare(p, device.configure(p, p.precision))
    if p.batch_size == params.AUTO:
        batch_size.use(trainer, batch_size.choose(trainer))
    with device.enough_memory(trainer.p.batch_size):
        trainer.precompute_features()
    return trainer
