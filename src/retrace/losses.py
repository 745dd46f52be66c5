"""What training minimises, by the name in params.yaml.

To add one: a function here that takes its settings as keyword-only arguments and returns `loss(logits, labels)`, a
line in the table, its settings under `losses:`.
"""

from collections.abc import Callable
from typing import Annotated

import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from pydantic import Field

from retrace.shapes import Labels, Logits, Loss

LossFunction = Callable[[Logits, Labels], Loss]


def cross_entropy(*, label_smoothing: Annotated[float, Field(ge=0, lt=1)]) -> LossFunction:
    """The mean negative log-likelihood, in nats; smoothing as in Szegedy et al. 2016 (arXiv:1512.00567)."""

    def loss(logits: Logits, labels: Labels) -> Loss:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    return loss


LOSSES: dict[str, Callable[..., LossFunction]] = {
    "cross_entropy": cross_entropy,
}
