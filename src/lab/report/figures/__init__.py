"""The figures, by the name of their file in reports/figures/ and of their table in params.yaml.

To add a figure: a file here with `draw(results, *, settings...)`, which returns a matplotlib
Figure, or, if the experiment lacks what it shows, the reason as a short clause; a line in this
table; its settings under `figures:`.
"""

from collections.abc import Callable

from matplotlib.figure import Figure

from lab.report.figures import (
    augmented_batch,
    calibration,
    confusion_matrix,
    decision_boundary,
    feature_maps,
    filters,
    grad_cam,
    learning_curves,
    learning_rate,
    mistakes,
    precision_recall,
    roc,
    samples,
    thresholds,
    tsne,
)

FIGURES: dict[str, Callable[..., Figure | str]] = {
    "learning_curves": learning_curves.draw,
    "learning_rate": learning_rate.draw,
    "augmented_batch": augmented_batch.draw,
    "confusion_matrix": confusion_matrix.draw,
    "precision_recall": precision_recall.draw,
    "roc": roc.draw,
    "calibration": calibration.draw,
    "thresholds": thresholds.draw,
    "decision_boundary": decision_boundary.draw,
    "samples": samples.draw,
    "mistakes": mistakes.draw,
    "grad_cam": grad_cam.draw,
    "filters": filters.draw,
    "feature_maps": feature_maps.draw,
    "tsne": tsne.draw,
}
