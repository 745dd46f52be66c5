"""Test samples in the plane, by t-SNE of features or raw inputs (tutorial 000)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from lab.report.figures import style
from lab.report.results import Results

ITERATIONS = 5000  # at most, as in the tutorial
MARKERS = "osD^vP*X<>"  # one marker per ten classes


@dataclass(frozen=True)
class Embedding:
    """The first n test samples in the plane."""

    points: np.ndarray  # (n, 2)
    divergence: float  # Kullback-Leibler, in nats
    source: str  # features, pixels or raw features


@lru_cache(maxsize=1)
def embedding(results: Results, source: str, samples: int, perplexity: float) -> Embedding | str:
    """Embed the first `samples` test samples, or return why that is impossible.

    The figure and the report page draw the same embedding, so the last one is cached.
    """
    n = min(samples, len(results.samples))
    if n < 4:
        return f"there are only {n} test samples"
    pixels = results.samples.inputs[:n].reshape(n, -1)
    vectors = results.predictions.features[:n] if source == "features" else pixels
    if np.count_nonzero(np.ptp(vectors, axis=0)) < 2:
        return "fewer than two features differ among the samples"
    points, divergence = embed(vectors, min(perplexity, (n - 1) / 3), results.seed)
    is_raw = source == "pixels" and not results.samples.are_images
    return Embedding(points, divergence, "raw features" if is_raw else source)


def embed(vectors: np.ndarray, perplexity: float, seed: int) -> tuple[np.ndarray, float]:
    """Embed `vectors` (n, d) in the plane (n, 2), with the tutorial's settings.

    Returns the Kullback-Leibler divergence too, in nats. One thread: with several, floating-point
    sums are computed in no fixed order, and the figure would differ from run to run.
    """
    tsne = TSNE(perplexity=perplexity, init="pca", max_iter=ITERATIONS, random_state=seed)
    with threadpool_limits(1):
        points = tsne.fit_transform(vectors.astype(np.float64))
    return points, float(tsne.kl_divergence_)


def draw(
    results: Results,
    *,
    of: Literal["features", "pixels"],
    samples: Annotated[int, Field(ge=10, le=20_000)],
    perplexity: Annotated[float, Field(gt=1, le=1000)],
) -> Figure | str:
    """Draw t-SNE (van der Maaten and Hinton 2008) of the first test samples.

    `features` are the inputs of the network's last layer, `pixels` the samples as they are. Logs
    `tsne_kl_divergence`, in nats.
    """
    embedded = embedding(results, of, samples, perplexity)
    if isinstance(embedded, str):
        return embedded
    points = embedded.points
    n = len(points)
    results.log_metric("tsne_kl_divergence", embedded.divergence)

    figure = Figure(figsize=(8.5, 6), layout="constrained")
    axes = figure.subplots()
    names = results.samples.class_names
    labels = results.predictions.labels[:n]
    is_wrong = results.predictions.predicted[:n] != labels
    if max(map(len, names)) <= 2:
        _draw_names(axes, points, labels, names)
        size = 120
    else:
        _draw_dots(axes, points, labels, names)
        size = 60
    axes.scatter(*points[is_wrong].T, s=size, fc="none", ec=style.DARK, zorder=4)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right center", frameon=False)
    source = f"{n:,} test samples' {embedded.source}"
    divergence = f"KL divergence {embedded.divergence:.2f}"
    style.title(figure, f"t-SNE of {source} ({divergence}); circled: misclassified")
    axes.set(xlabel="t-SNE dimension 1", ylabel="t-SNE dimension 2", xticks=[], yticks=[])
    return figure


def _draw_names(axes: Axes, points: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> None:
    """Write each sample as its class's name."""
    axes.scatter(*points.T, s=0)
    for (x, y), label in zip(points, labels, strict=True):
        color = style.DARK_COLORS[label % len(style.DARK_COLORS)]
        font = {"ha": "center", "va": "center", "fontsize": 8, "fontweight": "bold"}
        axes.text(x, y, style.short(names[label]), color=color, **font)


def _draw_dots(axes: Axes, points: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> None:
    """Draw each sample as a dot with the color and shape of its class, and name few classes."""
    present = np.unique(labels)
    for i in present:
        marker = MARKERS[i // len(style.COLORS) % len(MARKERS)]
        name = style.short(names[i]) if len(present) <= style.LEGIBLE else None
        color = style.COLORS[i % len(style.COLORS)]
        axes.scatter(*points[labels == i].T, s=18, marker=marker, color=color, label=name)
