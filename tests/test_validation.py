"""What is recorded of looking at the validation part is what looking sees, also when the weights have moved."""

import pytest
import torch
from test_checkpoint import Training
from test_steps import Scaled
from torch import Tensor

from retrace import steps
from retrace.samples import Samples
from retrace.validation import Validation

pytestmark = pytest.mark.usefixtures("folder")
MODELS = ("cnn", "cifar_v3", "mlp", "softmax")


def looking(stripes: Samples, model: str) -> Validation:
    training = Training(stripes, model=model)
    return Validation(training.state.model, training.parts[0])


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples that the network itself is asked for, each time."""
    asked: list[int] = []

    def score(self: Validation, inputs: Tensor, labels: Tensor) -> object:
        asked.append(len(labels))
        return original(self, inputs, labels)

    original = Validation.score
    monkeypatch.setattr(Validation, "score", score)
    monkeypatch.setattr(steps, "QUICK", 1e9)
    return asked


@pytest.mark.parametrize("model", MODELS)
def test_a_recording_sees_what_looking_sees(stripes: Samples, looked: list[int], model: str) -> None:
    validation = looking(stripes, model)
    for _ in range(steps.PLAIN + 3):
        told = validation()
        before = len(looked)
        loss, n_correct = validation.score(validation.part.inputs, validation.part.labels)
        assert told == (loss.item(), n_correct.item() / len(validation.part))
        assert len(looked) == before + 1
        with torch.no_grad():
            for weights in validation.model.state_dict().values():
                weights.copy_(weights * 0.9)
    assert looked.count(280) == steps.PLAIN + 2 + steps.PLAIN + 3  # plain ones, one recorded and compared; and ours


@pytest.mark.parametrize("model", MODELS)
def test_looking_leaves_the_network_as_training_takes_it_up_again(stripes: Samples, model: str) -> None:
    bits = []
    for quick in (0.0, 1e9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, "QUICK", quick)
            training = Training(stripes, model=model, epochs=5)
            training.run()
            bits.append((training.bits(), training.state.epochs))
    assert bits[0] == bits[1]


def test_what_a_recording_would_not_see_is_looked_at(stripes: Samples, looked: list[int]) -> None:
    calls = iter(range(1, 1000))
    for factor in (lambda inputs: 1 + inputs.mean().item(), lambda _: float(next(calls))):
        validation = looking(stripes, "softmax")
        validation.model.head = Scaled(validation.model.head, factor)
        seen = [validation() for _ in range(steps.PLAIN + 2)]
        assert len(set(seen)) == (1 if factor(torch.ones(1)) == 2 else len(seen))
    assert len(looked) >= 2 * (steps.PLAIN + 2)
