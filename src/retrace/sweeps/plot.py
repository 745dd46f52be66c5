"""A sweep as one PNG: Optuna's plots of history, parameter importances and slices."""

import io
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots
from PIL import Image

from retrace.system import files

ENOUGH = 4  # complete trials that importances need
DPI = 100


def draw(study: optuna.Study, metric: str, path: Path) -> None:
    """Write the plots of a study with at least one complete trial."""
    mpl.use("Agg")
    # Optuna warns that these functions are experimental, matplotlib of an axis with one value.
    with warnings.catch_warnings(action="ignore"):
        top = [_render(plots.plot_optimization_history(study, target_name=metric))]
        if _has_importances(study):
            # Optuna's default since 5.0; the one before it drew random numbers.
            evaluator = PedAnovaImportanceEvaluator()
            drawn = plots.plot_param_importances(study, evaluator=evaluator, target_name=metric)
            top.append(_render(drawn))
        below = _render(plots.plot_slice(study, target_name=metric))
    image = _stack([_stack(top, axis=1), below], axis=0)
    with files.atomic(path) as unfinished:
        Image.fromarray(image).save(unfinished, format="PNG")


def _has_importances(study: optuna.Study) -> bool:
    """Return whether there are enough complete trials, with different values."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return len(complete) >= ENOUGH and len({trial.value for trial in complete}) > 1


def _render(axes: Axes | np.ndarray) -> np.ndarray:
    """Render the figure of `axes` to pixels (height, width, 3), and close it."""
    figure = np.ravel(np.asarray(axes))[0].figure
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, bbox_inches="tight")
    plt.close(figure)
    return np.asarray(Image.open(content).convert("RGB"))


def _stack(images: list[np.ndarray], *, axis: int) -> np.ndarray:
    """Place images below each other (axis 0) or side by side (axis 1), on white."""
    other = 1 - axis
    size = max(image.shape[other] for image in images)
    padded = []
    for image in images:
        padding = [(0, 0)] * 3
        padding[other] = (0, size - image.shape[other])
        padded.append(np.pad(image, padding, constant_values=255))
    return np.concatenate(padded, axis=axis)
