"""Progress of training: lines in a log, a bar on a terminal."""

import io

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from lab.training import progress
from lab.training.state import Epoch, Step

EPOCH = Epoch(1, 0.5, 0.75, 0.4, 0.8)
STEP = Step(30, 64, 0.1, torch.tensor(0.25), torch.tensor(48))


def test_log_has_a_line_for_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.follow(2, 60) as follower:
        follower.step(STEP)
        follower.epoch(EPOCH)
    assert capsys.readouterr().out.startswith(
        "epoch 1/2  train loss 0.5000 accuracy 75.00%  validation loss 0.4000 accuracy 80.00%  "
    )
    assert follower.images_per_s > 0


def test_log_of_many_epochs_is_thinned(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.follow(500, 500) as follower:
        for epoch in range(1, 501):
            follower.epoch(EPOCH._replace(epoch=epoch))
    shown = [
        int(line.split("/")[0].removeprefix("epoch "))
        for line in capsys.readouterr().out.splitlines()
    ]
    assert (shown[0], shown[1], shown[-1]) == (1, 17, 500)
    assert len(shown) <= 32


def test_progress_bar_on_a_terminal() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with Progress(
        *progress.columns(), console=console, auto_refresh=False, transient=True
    ) as drawn:
        bar = progress.Bar(2, 60, drawn)
        bar.step(STEP)
        bar.epoch(EPOCH)
    shown = screen.getvalue()
    assert "30/60" in shown
    assert "loss 0.2500  accuracy  75.0%" in shown
    assert "images/s" in shown
    assert "left" in shown
    assert "epoch 1/2" in shown
