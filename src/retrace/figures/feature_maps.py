"""What each convolution of the network makes of the first test image."""

from typing import Annotated

from matplotlib.figure import Figure
from pydantic import Field

from retrace.figures import style
from retrace.reports import Results


def draw(results: Results, *, channels: Annotated[int, Field(ge=1, le=16)]) -> Figure | str:
    """A row a layer, from the first to the last; of each its first channels, on one scale a layer, so that a channel
    which sees nothing is dark.
    """
    maps = results.views.maps
    if not maps:
        return "the network has no convolution"
    columns = min(channels, max(map(len, maps.values())))
    figure = Figure(figsize=(max(7.0, 3.2 + columns), max(3.0, len(maps) + 0.6)), layout="constrained")
    style.headline(figure, "What convolutions make of the first test image; of each layer its first channels")
    cells = figure.add_gridspec(len(maps), columns + 1, width_ratios=[2, *[1] * columns])
    left = figure.add_subplot(cells[:, 0])
    style.show_image(left, results.samples.inputs[0])
    names, predictions = [style.short(name) for name in results.samples.class_names], results.predictions
    left.set_title(f"true {names[predictions.labels[0]]}\nsaid {names[predictions.predicted[0]]}", fontweight="normal")
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
