"""The pictures, by the name of their file in reports/figures/ and of their settings in params.yaml.

To add one: a file here with a `draw(results, *, settings...)` that returns a matplotlib Figure; a line in this table;
its settings under `figures:`; its PNG under `plots:` of visualize in dvc.yaml.
"""

from collections.abc import Callable

from matplotlib.figure import Figure

from retrace.figures import confusion_matrix, learning_curves, mistakes, samples, tsne

FIGURES: dict[str, Callable[..., Figure]] = {
    "learning_curves": learning_curves.draw,
    "confusion_matrix": confusion_matrix.draw,
    "samples": samples.draw,
    "mistakes": mistakes.draw,
    "tsne": tsne.draw,
}
