"""What train saves for later stages: history, steps, the first batch; a diagnosis of the fit."""

from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from lab import paths, stage_files
from lab.stage_files import Table

Batch = tuple[np.ndarray, np.ndarray]  # inputs, labels


# Thresholds of `diagnosis`.
GOOD = 0.8  # accuracy
GAP = 0.05  # allowed excess of training over validation accuracy; twice that if both are below GOOD
RISE = 0.1  # allowed rise of validation loss above its minimum, relative to max(minimum, 0.1 nats)


def diagnosis(history: Table) -> str:
    """Return one sentence on under- and overfitting.

    Tutorial 003 calls it underfitting if both training and validation accuracy are bad, and
    overfitting if only the training accuracy is good. The checks, in this order:

    - Overfitting: validation loss has risen from its minimum by more than `RISE` while training
      loss fell by a tenth; or training accuracy is above validation accuracy by more than `GAP`.
    - Underfitting: both accuracies are below `GOOD`.

    Training loss and validation loss are never compared with each other: training loss is a mean
    over the epoch, while the weights change, with dropout and augmentation. For the same reason the
    better of the two accuracies measures the fit. Accuracy is too optimistic if one class
    dominates.
    """
    best = min(history, key=lambda row: row["val_loss"])
    last = history[-1]
    rise = last["val_loss"] - best["val_loss"]
    learns_on = last["train_loss"] < 0.9 * best["train_loss"]
    fitted = max(last["train_accuracy"], last["val_accuracy"])
    gap = last["train_accuracy"] - last["val_accuracy"]
    training, validation = f"{last['train_accuracy']:.1%}", f"{last['val_accuracy']:.1%}"
    accuracies = f"accuracy is {training} in training, {validation} in validation"
    lowest = f"{best['val_loss']:.3g} (epoch {best['epoch']:.0f})"
    if rise > RISE * max(best["val_loss"], 0.1) and learns_on:
        return (
            f"Overfits: validation loss has risen from {lowest} to {last['val_loss']:.3g} while "
            f"training loss fell from {best['train_loss']:.3g} to {last['train_loss']:.3g}; "
            f"stop earlier or regularize."
        )
    if gap > (GAP if fitted >= GOOD else 2 * GAP):
        return f"Overfits: {accuracies}; regularize, augment, or use more data."
    if fitted < GOOD:
        falling = len(history) == 1 or last["train_loss"] < 0.98 * history[-2]["train_loss"]
        remedy = "train longer" if falling else "try a larger network or another learning rate"
        return f"Underfits: {accuracies} after epoch {last['epoch']:.0f}; {remedy}."
    return f"Fits well: {accuracies}; lowest validation loss {lowest}."


def load_history() -> Table:
    """Load the metrics of each epoch. Raises DataError if there are none."""
    return stage_files.load(paths.HISTORY, "train", stage_files.read_table)


def load_steps() -> Table:
    """Load rows of step, learning_rate and loss. Raises DataError if there are none."""
    return stage_files.load(paths.STEPS, "train", stage_files.read_table)


def save_batch(inputs: np.ndarray, labels: np.ndarray) -> None:
    """Write a training batch as the network sees it: augmented, before normalization.

    `inputs` are images (n, channels, height, width) uint8 or features (n, d) float32; `labels` are
    (n,) int64.
    """
    stage_files.save_arrays(paths.BATCH, {"inputs": inputs, "labels": labels})


def load_batch() -> Batch:
    """Load the training batch. Raises DataError if the file is missing or truncated."""
    return stage_files.load(paths.BATCH, "train", _read_batch)


def _read_batch(path: Path) -> Batch:
    arrays = safetensors.numpy.load_file(path)
    return arrays["inputs"], arrays["labels"]
