"""Test samples in two dimensions by t-SNE, of what the network makes of them or of the raw inputs (seeds/000)."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field

from retrace.figures import style
from retrace.reports import Results

EXACT = 1000  # samples; of more, approximately
MARKERS = "osD^vP*X<>"  # a marker for each ten classes


@dataclass(frozen=True)
class Map:
    """Where the first n test samples are, shape (n, 2), and the Kullback-Leibler divergence, in nats."""

    places: np.ndarray
    divergence: float
    kind: str  # of what it is a map


@lru_cache(maxsize=1)
def mapped(results: Results, of: str, samples: int, perplexity: float) -> Map | str:
    """The map, or why there is none; a second time for the same results, it is there already."""
    n = min(samples, len(results.samples))
    if n < 4:
        return f"there are but {n} test samples"
    vectors = results.predictions.features[:n] if of == "features" else results.samples.inputs[:n].reshape(n, -1)
    if np.count_nonzero(np.ptp(vectors, axis=0)) < 2:
        return "fewer than two features differ among the samples"
    kind = of if results.samples.are_images or of == "features" else "raw features"
    return Map(*embedded(vectors, min(perplexity, (n - 1) / 3), results.seed), kind)


def draw(
    results: Results,
    *,
    of: Literal["features", "pixels"],
    samples: Annotated[int, Field(ge=10, le=20_000)],
    perplexity: Annotated[float, Field(gt=1, le=1000)],
) -> Figure | str:
    """Van der Maaten and Hinton 2008, started from the first two principal components, which keeps the map stable.
    `features` are the inputs of the network's last layer, `pixels` the samples as they are. Tells
    `tsne_kl_divergence`, in nats.
    """
    found = mapped(results, of, samples, perplexity)
    if isinstance(found, str):
        return found
    map_, n = found.places, len(found.places)
    results.tell("tsne_kl_divergence", found.divergence)

    figure = Figure(figsize=(8.5, 6), layout="constrained")
    axes = figure.subplots()
    names, labels = results.samples.class_names, results.predictions.labels[:n]
    wrong = results.predictions.predicted[:n] != labels
    draw_all, size = (_write, 120) if max(map(len, names)) <= 2 else (_dot, 60)
    draw_all(axes, map_, labels, names)
    axes.scatter(*map_[wrong].T, s=size, fc="none", ec=style.RIGHT, zorder=4)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right center", frameon=False)
    of_what = f"{n:,} test samples' {found.kind} (KL divergence {found.divergence:.2f})"
    style.headline(figure, f"t-SNE of {of_what}; circled: mistakes")
    axes.set(xlabel="t-SNE dimension 1", ylabel="t-SNE dimension 2", xticks=[], yticks=[])
    return figure


def embedded(vectors: np.ndarray, perplexity: float, seed: int) -> tuple[np.ndarray, float]:
    """The map, shape (n, 2), and its Kullback-Leibler divergence. One thread: several add in no fixed order."""
    from threadpoolctl import threadpool_limits

    from retrace import embedding

    with threadpool_limits(1):
        if len(vectors) <= EXACT:
            return embedding.embedded(vectors.astype(np.float64), perplexity)
        from sklearn.manifold import TSNE

        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        return tsne.fit_transform(vectors.astype(np.float64)), float(tsne.kl_divergence_)


def _write(axes: Axes, map_: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> None:
    """Each sample is its class's name."""
    axes.scatter(*map_.T, s=0)
    for (x, y), label in zip(map_, labels, strict=True):
        colour = style.INKS[label % len(style.INKS)]
        axes.text(x, y, names[label], color=colour, ha="center", va="center", fontsize=8, fontweight="bold")


def _dot(axes: Axes, map_: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> None:
    """Each sample is a dot of its class's colour and shape, which a legend names where that is legible."""
    present = np.unique(labels)
    for i in present:
        marker = MARKERS[i // len(style.COLOURS) % len(MARKERS)]
        name = style.short(names[i]) if len(present) <= style.LEGIBLE else None
        axes.scatter(*map_[labels == i].T, s=18, marker=marker, color=style.COLOURS[i % len(style.COLOURS)], label=name)
