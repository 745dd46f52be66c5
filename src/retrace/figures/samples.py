"""The first images of the test part, with their true and their predicted class; mistakes stand out."""

from matplotlib.figure import Figure

from retrace.figures import style
from retrace.reports import Results


def draw(results: Results, *, rows: style.Cells, columns: style.Cells) -> Figure | str:
    if not results.samples.are_images:
        return style.NO_IMAGES
    names, predictions = [style.short(name, 12) for name in results.samples.class_names], results.predictions
    pairs = list(zip(predictions.labels, predictions.predicted, strict=True))[: rows * columns]
    joint = " → " if max(map(len, names)) <= 2 else "\n→ "
    labels = [names[true] if true == said else f"{names[true]}{joint}{names[said]}" for true, said in pairs]
    figure, cells = style.grid(
        labels, columns, "Test images with their class; of mistakes, true class → predicted class"
    )
    for image, (true, said), axes in zip(results.samples.inputs, pairs, cells, strict=False):
        style.show_image(axes, image)
        if true != said:
            axes.title.set(color=style.WRONG, fontweight="bold")
    return figure
