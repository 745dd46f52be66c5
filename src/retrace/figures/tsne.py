"""The features of some test samples in two dimensions by t-SNE, each drawn as its label (seeds/000)."""

from typing import Annotated

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from retrace.figures import style
from retrace.reports import Results


def draw(
    results: Results,
    *,
    samples: Annotated[int, Field(ge=10, le=20_000)],
    perplexity: Annotated[float, Field(gt=1, le=1000)],
) -> Figure:
    """Van der Maaten and Hinton 2008, started from the first two principal components, which keeps the map stable."""
    n = min(samples, len(results.samples))
    if np.count_nonzero(results.predictions.features[:n].std(axis=0)) < 2:
        return style.note("No t-SNE: the network gives all samples the same features, or has but one")
    map_, divergence = embedded(results.predictions.features[:n], min(perplexity, (n - 1) / 3), results.seed)
    names, labels, predicted = results.samples.class_names, results.predictions.labels, results.predictions.predicted
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*map_.T, s=0)
    for (x, y), label, said in zip(map_, labels[:n], predicted[:n], strict=True):
        colour = style.INKS[label % len(style.INKS)]
        boxed = {"boxstyle": "circle,pad=0.15", "fc": "none", "ec": style.RIGHT, "lw": 1.2} if said != label else None
        axes.text(x, y, names[label], color=colour, ha="center", va="center", fontsize=8, fontweight="bold", bbox=boxed)
    axes.set_title(f"t-SNE of {n} test samples' features (KL divergence {divergence:.2f}); circled: mistakes")
    axes.set(xlabel="t-SNE dimension 1", ylabel="t-SNE dimension 2", xticks=[], yticks=[])
    return figure


def embedded(features: np.ndarray, perplexity: float, seed: int) -> tuple[np.ndarray, float]:
    """The map, shape (n, 2), and its Kullback-Leibler divergence. One thread: several add in no fixed order."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        return tsne.fit_transform(features.astype(np.float64)), float(tsne.kl_divergence_)
