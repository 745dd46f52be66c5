"""The feature maps of each convolution, for the first test image."""

from typing import Annotated

from matplotlib.figure import Figure
from pydantic import Field

from lab.report.figures import style
from lab.report.results import Results


def draw(results: Results, *, channels: Annotated[int, Field(ge=1, le=16)]) -> Figure | str:
    """Draw a row for each layer, from first to last, with its first channels.

    A layer's channels share one scale, so that an inactive channel is dark.
    """
    maps = results.views.maps
    if not maps:
        return "the network has no convolution"
    columns = min(channels, max(map(len, maps.values())))
    size = (max(7.0, 3.2 + columns), max(3.0, len(maps) + 0.6))
    figure = Figure(figsize=size, layout="constrained")
    style.title(figure, "Feature maps of the first test image: the first channels of each layer")
    cells = figure.add_gridspec(len(maps), columns + 1, width_ratios=[2, *[1] * columns])
    left = figure.add_subplot(cells[:, 0])
    style.show_image(left, results.samples.inputs[0])
    names = [style.short(name) for name in results.samples.class_names]
    predictions = results.predictions
    true, predicted = names[predictions.labels[0]], names[predictions.predicted[0]]
    left.set_title(f"true {true}\npredicted {predicted}", fontweight="normal")
    for row, (name, map_) in enumerate(maps.items()):
        for column, channel in enumerate(map_[:columns]):
            axes = figure.add_subplot(cells[row, column + 1])
            axes.imshow(channel, cmap="viridis", vmin=map_.min(), vmax=map_.max())
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if column == 0:
                label = f"{name}\n{map_.shape[1]} × {map_.shape[2]}"
                axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    return figure
