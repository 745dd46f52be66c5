"""Learning rate schedules, against PyTorch's."""

import numpy as np
import pytest
import torch
from torch import nn, optim

from lab.training.schedules import SCHEDULES, Moment, cosine, multistep, one_cycle, plateau
from retrace.pipeline import params_yaml


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_in_0_to_1_and_reach_1(values: params_yaml.Values, name: str) -> None:
    settings = values["schedules"][name]
    moments = [Moment(i / 1000, i // 100, [1.0] * (i // 100)) for i in range(1000)]
    factors = [SCHEDULES[name](at, **settings) for at in moments]
    assert min(factors) >= 0
    assert max(factors) == pytest.approx(1)


def test_one_cycle_rises_then_falls_to_zero() -> None:
    moments = [Moment(done, 0, []) for done in (0, 0.125, 0.25, 1)]
    assert [one_cycle(at, warmup_fraction=0.25) for at in moments] == [0, 0.5, 1, 0]


def test_cosine_falls_from_one_to_zero() -> None:
    assert [cosine(Moment(done, 0, [])) for done in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize("milestones", [[8, 16, 24, 32], [1], []])
def test_multistep_equals_torch(milestones: list[int]) -> None:
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.5)
    for epoch in range(40):
        factor = multistep(Moment(0.0, epoch, []), milestones=milestones, gamma=0.5)
        assert factor == theirs.get_last_lr()[0]
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("seed", range(5))
def test_plateau_equals_torch(seed: int) -> None:
    losses = np.random.default_rng(seed).normal(size=60).tolist()
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = optim.lr_scheduler.ReduceLROnPlateau(  # which counts patience from 0
        optimizer, factor=0.5, patience=2, threshold=0.0, eps=0.0
    )
    for epoch, loss in enumerate(losses):
        factor = plateau(Moment(0.0, epoch, losses[:epoch]), patience=3, factor=0.5)
        assert factor == theirs.get_last_lr()[0]
        theirs.step(loss)
