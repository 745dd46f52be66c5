"""The input of every figure, loaded from the files of train and evaluate; needs no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lab import paths, stage_files
from lab.data.samples import Samples
from lab.evaluation import artifacts
from lab.evaluation.artifacts import NetworkViews, Predictions
from lab.evaluation.metrics import softmax
from lab.stage_files import Table
from lab.training import records
from lab.training.records import Batch


@dataclass(frozen=True, eq=False)
class Results:
    """The input of every figure.

    `samples` is the test split. `steps` are rows of step, learning_rate and loss. `batch` is the
    first training batch, as `records.save_batch` describes. `log_metric` takes a metric's name and
    value.
    """

    history: Table
    steps: Table
    metrics: Mapping[str, float]
    predictions: Predictions
    samples: Samples
    batch: Batch
    views: NetworkViews
    seed: int
    log_metric: Callable[[str, float], None]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """The predicted probabilities (n, classes)."""
        return softmax(self.predictions.logits)

    @property
    def one_vs_rest(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """For each class, the samples that belong to it (n,) bool, and its probability (n,).

        Classes that no sample or every sample belongs to are left out.
        """
        labels = self.predictions.labels
        counts = np.bincount(labels, minlength=self.probabilities.shape[1])
        mixed = np.flatnonzero((counts > 0) & (counts < len(labels)))
        return {int(i): (labels == i, self.probabilities[:, i]) for i in mixed}


def load_layers() -> str:
    """Load the network's layers as text. Raises DataError if there are none."""
    return stage_files.load(paths.SUMMARY, "train", lambda path: path.read_text(encoding="utf-8"))


def load_results(samples: Samples, seed: int, log_metric: Callable[[str, float], None]) -> Results:
    """Load what train and evaluate saved. Raises DataError if a file is missing or malformed."""
    return Results(
        history=records.load_history(),
        steps=records.load_steps(),
        metrics=artifacts.load_metrics(),
        predictions=artifacts.load_predictions(),
        samples=samples,
        batch=records.load_batch(),
        views=artifacts.load_views(),
        seed=seed,
        log_metric=log_metric,
    )
