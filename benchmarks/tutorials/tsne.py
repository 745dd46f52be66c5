"""t-SNE of 500 samples (tutorial 000): perplexity 30, at most 5,000 iterations."""

import numpy as np
from sklearn.manifold import TSNE


def embedded(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the map and its Kullback-Leibler divergence."""
    tsne = TSNE(perplexity=30, n_components=2, init="pca", max_iter=5000)
    return tsne.fit_transform(vectors), float(tsne.kl_divergence_)
