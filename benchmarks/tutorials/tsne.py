"""t-SNE of 500 samples (seeds/000): perplexity 30, from the principal components, 5,000 iterations at most."""

import numpy as np
from sklearn.manifold import TSNE


def embedded(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """The map, and its Kullback-Leibler divergence."""
    tsne = TSNE(perplexity=30, n_components=2, init="pca", max_iter=5000)
    return tsne.fit_transform(vectors), float(tsne.kl_divergence_)
