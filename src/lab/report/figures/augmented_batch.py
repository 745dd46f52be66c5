"""The first training images as the network sees them: augmented, before normalization."""

from matplotlib.figure import Figure

from lab.report.figures import style
from lab.report.results import Results


def draw(results: Results, *, rows: style.Cells, columns: style.Cells) -> Figure | str:
    """Draw the first images of the first batch, each with its class."""
    inputs, labels = results.batch
    if inputs.ndim != 4:
        return style.NO_IMAGES
    class_names = results.samples.class_names
    names = [style.short(class_names[label], 12) for label in labels[: rows * columns]]
    sentence = f"The first {len(names)} training images as the network sees them, augmented"
    figure, cells = style.grid(names, columns, sentence)
    for image, axes in zip(inputs, cells, strict=False):
        style.show_image(axes, image)
    return figure
