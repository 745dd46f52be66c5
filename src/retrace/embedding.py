"""t-SNE (van der Maaten and Hinton 2008) of as many samples as one looks at: without approximation, and quick.

The divergence of so few samples and its gradient are a few products of matrices, which L-BFGS needs some hundred times,
where gradient descent with momentum, which everybody's t-SNE goes down by, needs thousands. Of more samples the
matrices are too large: sklearn approximates them.
"""

import numpy as np
from scipy.optimize import minimize

EXAGGERATION, EARLY = 12.0, 150  # attraction, by which clusters come together first; iterations at most
ITERATIONS = 1000  # at most
# Gains, in nats below 1 nat and relative above, at which each is over: lower ones take twice as long, and in the mean
# of 13 sets the map was no better.
TOGETHER, CONVERGED = 1e-3, 1e-5
HALVINGS = 32  # of the interval in which a bandwidth lies


class Divergence:
    """Of the neighbourhoods in a map from those of the samples, in nats, with its gradient: called with a map."""

    def __init__(self, near: np.ndarray) -> None:
        """`near` has how much i and j are neighbours, symmetric, 1 in all."""
        self.near = near.astype(np.float32)
        some = near[near > 0]
        self.negative_entropy = float((some * np.log(some)).sum())
        self._kernel, self._force = np.empty_like(self.near), np.empty_like(self.near)
        # Of (x, y, x2 + y2, 1) and (-2x, -2y, 1, x2 + y2 + 1), whose products are one more than the squared distances.
        self._left, self._right = np.ones((len(near), 4), np.float32), np.ones((4, len(near)), np.float32)

    def __call__(self, flat: np.ndarray, attraction: float = 1.0) -> tuple[float, np.ndarray]:
        kernel, force = self._kernel, self._force
        places = flat.reshape(-1, 2).astype(np.float32)
        squares = (places**2).sum(axis=1)
        self._left[:, :2], self._left[:, 2] = places, squares
        self._right[:2], self._right[3] = -2 * places.T, squares + 1
        np.matmul(self._left, self._right, out=kernel)
        np.maximum(kernel, 1, out=kernel)  # which rounding can miss
        np.log(kernel, out=force)
        apart = float(np.vdot(self.near, force))
        np.reciprocal(kernel, out=kernel)
        np.fill_diagonal(kernel, 0)
        total = float((kernel @ self._left[:, 3]).sum(dtype=np.float64))
        np.multiply(kernel, np.float32(-1 / (attraction * total)), out=force)
        force += self.near
        force *= kernel
        pulled = force @ self._left
        gradient = 4 * attraction * (pulled[:, 3:] * places - pulled[:, :2])
        value = attraction * (self.negative_entropy + apart) + np.log(total)
        return float(value), gradient.ravel().astype(np.float64)


def neighbours(vectors: np.ndarray, perplexity: float) -> np.ndarray:
    """How much i and j are neighbours: 1 in all, each sample with about `perplexity` of the others."""
    centred = vectors - vectors.mean(axis=0)
    squares = (centred**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * centred @ centred.T, 0)
    np.fill_diagonal(distances, np.inf)
    distances -= distances.min(axis=1, keepdims=True)
    distances /= distances[np.isfinite(distances)].mean() or 1.0
    low, high = np.full((len(vectors), 1), -40.0), np.full((len(vectors), 1), 40.0)  # log of the precision
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        own = _own(distances, middle)
        entropy = -(own * np.log(own, out=np.zeros_like(own), where=own > 0)).sum(axis=1, keepdims=True)
        too_wide = entropy > np.log(perplexity)
        low, high = np.where(too_wide, middle, low), np.where(too_wide, high, middle)
    own = _own(distances, high)
    return (own + own.T) / own.sum() / 2


def _own(distances: np.ndarray, log_precision: np.ndarray) -> np.ndarray:
    """Each sample's neighbours, a row a sample, 1 in all."""
    weights = np.exp(-distances * np.exp(log_precision))
    return weights / weights.sum(axis=1, keepdims=True)


def principal(vectors: np.ndarray) -> np.ndarray:
    """The first two principal components, the first of deviation 1; each with its largest value above 0."""
    centred = vectors - vectors.mean(axis=0)
    squares, axes = np.linalg.eigh(centred @ centred.T)  # of samples, who are fewer than the pixels of an image
    start = axes[:, :-3:-1] * np.sqrt(np.maximum(squares[:-3:-1], 0))
    start *= np.sign(start[np.abs(start).argmax(axis=0), [0, 1]])
    return start / start[:, 0].std()


def embedded(vectors: np.ndarray, perplexity: float) -> tuple[np.ndarray, float]:
    """A map, shape (n, 2), and its divergence from the `vectors`, shape (n, d), two of which differ at least."""
    divergence = Divergence(neighbours(vectors, perplexity))
    limits = {"gtol": 0.0, "maxfun": 10 * ITERATIONS}
    first, then = {"ftol": TOGETHER, "maxiter": EARLY}, {"ftol": CONVERGED, "maxiter": ITERATIONS}
    start = principal(vectors).ravel()
    early = minimize(divergence, start, (EXAGGERATION,), "L-BFGS-B", jac=True, options=limits | first)
    found = minimize(divergence, early.x, (), "L-BFGS-B", jac=True, options=limits | then)
    return found.x.reshape(-1, 2), float(found.fun)
