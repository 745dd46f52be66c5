"""Grad-CAM: where in an image the evidence for its predicted class is (Selvaraju et al. 2017,
arXiv:1610.02391). Misclassified images come first, with red titles, the largest loss first; then a
correctly classified one of each class.
"""

from typing import Annotated

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from pydantic import Field

from lab.report.figures import style
from lab.report.results import Results

Count = Annotated[int, Field(ge=0, le=24)]  # evaluation/grad_cam.py has no more heat maps
OPACITY = 0.8  # of the largest heat
BRIGHTNESS = 0.8  # of the image
SIDE = 112  # pixels, at least, so that the heat map is smooth over a small image


def draw(
    results: Results, *, mistakes: Count, classes: Count, columns: style.Cells
) -> Figure | str:
    """Draw each image, paler, under its heat map, from red to yellow."""
    if not results.samples.are_images:
        return style.NO_IMAGES
    heat = results.views.heat
    if heat is None:
        return "the network has no feature map before its head"
    labels = results.predictions.labels[heat.samples]
    predicted = results.predictions.predicted[heat.samples]
    is_wrong = labels != predicted
    shown = [*np.flatnonzero(is_wrong)[:mistakes], *np.flatnonzero(~is_wrong)[:classes]]
    if not shown:
        return "mistakes and classes are 0"
    names = [style.short(name, 12) for name in results.samples.class_names]
    titles = []
    for i in shown:
        probability = f"{results.probabilities[heat.samples[i], predicted[i]]:.0%}"
        own = f"true {names[labels[i]]}\npredicted " if is_wrong[i] else ""
        titles.append(f"{own}{names[predicted[i]]} ({probability})")
    sentence = "Grad-CAM: where the evidence for the predicted class is; red titles: misclassified"
    figure, cells = style.grid(titles, columns, sentence)
    for i, axes in zip(shown, cells, strict=True):
        image = _center(results.samples.inputs[heat.samples[i]], heat.size)
        _show(axes, image, heat.maps[i])
        if is_wrong[i]:
            axes.title.set(color=style.RED)
    return figure


def _center(image: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the center (channels, *size) of an image, which is what the network sees."""
    top, left = (np.array(image.shape[1:]) - size) // 2
    height, width = size
    return image[:, top : top + height, left : left + width]


def _show(axes: Axes, image: np.ndarray, heat: np.ndarray) -> None:
    """Show an image (channels, height, width) uint8 under its heat map, enlarged smoothly."""
    pixels = image.transpose(1, 2, 0).astype(np.float64)
    pale = (pixels + pixels.mean(axis=2, keepdims=True)) / 2
    times = -(-SIDE // min(pale.shape[:2]))
    below = pale.repeat(times, axis=0).repeat(times, axis=1)
    size = (below.shape[1], below.shape[0])
    smooth = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(smooth, np.float64), 0, 1)
    color = 255 * colormaps["inferno"]((1 + share) / 2)[..., :3]
    opacity = OPACITY * share[..., None]
    mixed = (1 - opacity) * BRIGHTNESS * below + opacity * color
    axes.imshow(mixed.round().astype(np.uint8))
    axes.set_axis_off()
