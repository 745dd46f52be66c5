"""The first test images, with their true and their predicted class; misclassified ones are red."""

from matplotlib.figure import Figure

from lab.report.figures import style
from lab.report.results import Results


def draw(results: Results, *, rows: style.Cells, columns: style.Cells) -> Figure | str:
    """Draw the images row by row."""
    if not results.samples.are_images:
        return style.NO_IMAGES
    predictions = results.predictions
    names = [style.short(name, 12) for name in results.samples.class_names]
    pairs = list(zip(predictions.labels, predictions.predicted, strict=True))[: rows * columns]
    arrow = " → " if max(map(len, names)) <= 2 else "\n→ "
    labels = [
        names[true] if true == predicted else f"{names[true]}{arrow}{names[predicted]}"
        for true, predicted in pairs
    ]
    sentence = "Test images with their class; red: misclassified, true class → predicted class"
    figure, cells = style.grid(labels, columns, sentence)
    for image, pair, axes in zip(results.samples.inputs, pairs, cells, strict=False):
        style.show_image(axes, image)
        if pair[0] != pair[1]:
            axes.title.set(color=style.RED, fontweight="bold")
    return figure
