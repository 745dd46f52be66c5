"""The exponential moving average of a model's weights, which is validated and kept in their place.

Polyak and Juditsky 1992; as in Tarvainen and Valpola 2017 (arXiv:1703.01780), after every step.
"""

import copy

from torch.optim import swa_utils

from lab.models.classifier import Classifier


class Average:
    """The average of a model's weights and running statistics.

    The decay rises to its limit as in TensorFlow's ExponentialMovingAverage with `num_updates`:
    after step n it is min(ema_decay, (1 + n) / (10 + n)), so that the initial weights, which are
    random, do not stay in the average of a short training.
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(requires_grad=False)
        self._decay = decay
        pairs = zip(self.model.state_dict().values(), model.state_dict().values(), strict=True)
        self._counts = []  # of batches that batch norm has seen: copied, not averaged
        self._averages = []
        self._current = []
        for average, current in pairs:
            if average.is_floating_point():
                self._averages.append(average)
                self._current.append(current)
            else:
                self._counts.append((average, current))

    def update(self, step: int) -> None:
        """Add the weights after a step, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        swa_utils.get_ema_multi_avg_fn(decay)(self._averages, self._current, step)
        for average, current in self._counts:
            average.copy_(current)
