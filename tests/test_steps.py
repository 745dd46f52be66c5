"""A recorded step is the step, to the bit; what would not be is not recorded."""

import random
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from test_checkpoint import KINDS, Training, whole_and_gone_on
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from retrace import script, steps, tape
from retrace.samples import Samples
from retrace.tape import UnrecordableError

UNRECORDED = {"a running mean"}  # torch's RMSprop reads the learning rate of a tensor, but for GPUs


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Steps are recorded however long they take; the inputs with which one was."""
    recorded: list[Tensor] = []

    def taped(move: steps.Move, inputs: Tensor, labels: Tensor) -> steps.Move:
        play = original(move, inputs, labels)
        recorded.append(inputs)
        return play

    original = steps.taped
    monkeypatch.setattr(steps, "taped", taped)
    monkeypatch.setattr(steps, "QUICK", 1e9)
    return recorded


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_steps_move_the_weights_as_plain_ones(
    stripes: Samples, recordings: list[Tensor], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    recorded = Training(stripes, **KINDS[kind])
    kept = recorded.run()
    assert len(recordings) == (kind not in UNRECORDED)
    monkeypatch.setattr(steps, "QUICK", 0)
    plain = Training(stripes, **KINDS[kind])
    assert plain.run() == kept
    assert len(recordings) == (kind not in UNRECORDED)
    assert plain.steps == recorded.steps
    assert plain.bits() == recorded.bits()


@pytest.mark.usefixtures("folder")
def test_a_training_of_recorded_steps_that_is_stopped_goes_on_to_the_same_bits(
    stripes: Samples, recordings: list[Tensor]
) -> None:
    kind = KINDS["chance in the network, batch norm, augmentation"]
    whole, second = whole_and_gone_on(lambda: Training(stripes, **kind))
    assert len(recordings) == 3
    assert second.bits() == whole.bits()


@pytest.mark.usefixtures("folder", "recordings")
def test_each_size_of_batch_is_recorded_for_itself(stripes: Samples, recordings: list[Tensor]) -> None:
    training = Training(stripes, batch_size=60, epochs=4)  # 280 samples: four of 60, and 40
    training.run()
    assert [len(inputs) for inputs in recordings] == [60, 40]


class Scaled(nn.Module):
    """A layer that is multiplied by what a function says, which Python asks at every step."""

    def __init__(self, layer: nn.Module, factor: Callable[[Tensor], float]) -> None:
        super().__init__()
        self.layer, self.factor = layer, factor

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) * self.factor(inputs)


UNTRUE: dict[str, tuple[Callable[[Tensor], float], str]] = {
    "a number of a tensor's": (lambda inputs: 1 + inputs.mean().item(), "reads a number of a tensor's"),
    "Python's chance": (lambda _: random.random(), "gives other bits"),  # noqa: S311 - that is the defect
}


@pytest.mark.usefixtures("folder", "recordings")
@pytest.mark.parametrize("why", UNTRUE)
def test_what_a_recording_would_not_do_again_is_not_recorded(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    factor, reason = UNTRUE[why]
    trainings = []
    for quick in (1e9, 0.0):
        monkeypatch.setattr(steps, "QUICK", quick)
        training = Training(stripes)
        training.state.model.head = Scaled(training.state.model.head, factor)
        random.seed(0)
        training.run()
        trainings.append(training)
    said = capsys.readouterr().out
    assert said.count("steps are not recorded, and so take longer: ") == 1
    assert reason in said
    if why == "a number of a tensor's":
        assert trainings[0].bits() == trainings[1].bits()


def played(function: Callable[..., Sequence[Tensor]], *given: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """What a recording of `function`, made with other numbers, gives; and what the function does."""
    play = tape.record(function, *(torch.rand_like(tensor) for tensor in given))
    return play(*given), function(*given)


def test_a_tape_has_gradients_and_views_and_lists_and_what_it_only_found() -> None:
    weight, held = torch.randn(3, 5, requires_grad=True), torch.zeros(2)

    def function(inputs: Tensor) -> list[Tensor]:
        first, second = inputs.split(1)
        (torch.cat([second, first]) @ weight.T).relu().sum().backward()
        gradient, weight.grad = weight.grad, None
        assert gradient is not None
        held.add_(gradient[0, :2])
        return [gradient, inputs.view(-1), held.clone()]

    given = torch.randn(2, 5)
    does, says = played(function, given)
    before = held.clone()
    assert torch.equal(does[0], says[0])
    assert does[1].data_ptr() == given.data_ptr()
    assert torch.equal(says[2] - does[2], does[0][0, :2])  # both added to what was found
    assert torch.equal(before, says[2])


def test_a_tape_draws_anew() -> None:
    play = tape.record(lambda inputs: [torch.nn.functional.dropout(inputs)], torch.ones(100))
    first, second = play(torch.ones(100))[0], play(torch.ones(100))[0]
    assert not torch.equal(first, second)


def test_a_copy_that_somebody_changes_is_made() -> None:
    def function(inputs: Tensor) -> list[Tensor]:
        doubled = inputs * 2
        copy = torch.empty_strided(doubled.shape, doubled.stride())
        copy.copy_(doubled)
        copy.add_(1)
        return [doubled, copy]

    does, says = played(function, torch.arange(4.0))
    assert all(map(torch.equal, does, says))


def test_a_copy_into_a_part_of_something_is_made() -> None:
    def function(inputs: Tensor) -> list[Tensor]:
        whole = torch.zeros(4, 3)
        whole[:2] = inputs + 1
        wide = torch.empty_strided((4, 3), (3, 1))
        wide.copy_(inputs[:1] + 1)
        return [whole, wide]

    does, says = played(function, torch.rand(2, 3))
    assert all(map(torch.equal, does, says))


def test_a_tape_that_lacks_an_operation_is_refused() -> None:
    def function(inputs: Tensor) -> list[Tensor]:
        doubled = inputs * 2
        with _disable_current_modes():
            hidden = doubled[:2]
        return [hidden + 1]

    with pytest.raises(UnrecordableError, match="no operation gave it"):
        tape.record(function, torch.ones(4))


class Living(TorchDispatchMode):
    """Counts the tensors that operations gave and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.given.append(weakref.ref(result))
        self.most = max(self.most, sum(tensor() is not None for tensor in self.given))
        return result


def test_nothing_is_held_longer_than_it_is_used() -> None:
    def function(inputs: Tensor) -> list[Tensor]:
        for _ in range(50):
            inputs = inputs + 1
        return [inputs.sum()]

    n = script.SMALL // 4 + 1  # numbers of four bytes
    play = tape.record(function, torch.zeros(n))
    given = torch.zeros(n)
    with Living() as living:
        played = play(given)[0]
    assert played == n * 50
    assert len(living.given) == 51
    assert living.most == 2
