"""How good a network in training is on the validation part, after each epoch."""

import time
from collections.abc import Sequence
from contextlib import suppress

from torch import Tensor

from retrace import evaluation, steps, tape
from retrace.batches import Part
from retrace.classifier import Classifier
from retrace.shapes import Inputs, Labels
from retrace.tape import UnrecordableError


class Validation:
    """Looks at the whole part each time; what a CPU does of that in no time is recorded, as a step is."""

    def __init__(self, model: Classifier, part: Part) -> None:
        self.model, self.part = model, part
        self._score, self._times = self.score, 0

    def __call__(self) -> tuple[float, float]:
        """The mean cross-entropy, in nats, and the accuracy, 0..1."""
        began = time.perf_counter()
        loss, n_correct = self._score(self.part.inputs, self.part.labels)
        scored = loss.item(), n_correct.item() / len(self.part)
        self._times += 1
        if self._times == steps.PLAIN and time.perf_counter() - began < steps.QUICK and self._can_be_recorded:
            self._record()
        return scored

    def score(self, inputs: Inputs, labels: Labels) -> Sequence[Tensor]:
        """One operation after the other."""
        logits = evaluation.outputs(self.model, Part(inputs, labels, self.part.reader)).logits
        return [evaluation.mean_loss(logits, labels), evaluation.n_correct(logits, labels)]

    @property
    def _can_be_recorded(self) -> bool:
        return self.part.labels.device.type == "cpu" and self.part.reader is None

    def _record(self) -> None:
        """From here on a recording looks, if it sees the same with other samples too; why not, `Steps` says of the same
        network, and what looking itself can meet it meets again.
        """
        others = self.part.inputs.flip(0), self.part.labels.roll(1)
        with suppress(UnrecordableError, RuntimeError):
            play = tape.record(self.score, self.part.inputs, self.part.labels)
            if steps.is_the_same(self.score(*others), play(*others)):
                self._score = play
