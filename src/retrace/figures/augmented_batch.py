"""The first training images as the network sees them: augmented, but before normalisation."""

from matplotlib.figure import Figure

from retrace.figures import style
from retrace.reports import Results


def draw(results: Results, *, rows: style.Cells, columns: style.Cells) -> Figure | str:
    inputs, labels = results.batch
    if inputs.ndim != 4:
        return style.NO_IMAGES
    names = [style.short(results.samples.class_names[label], 12) for label in labels[: rows * columns]]
    title = f"The first {len(names)} training images as the network sees them, after augmentation"
    figure, cells = style.grid(names, columns, title)
    for image, axes in zip(inputs, cells, strict=False):
        style.show_image(axes, image)
    return figure
