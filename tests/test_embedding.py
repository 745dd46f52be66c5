"""t-SNE without approximation: its neighbourhoods, its gradient, and the divergence that it reaches."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from retrace import embedding

DIGITS = np.asarray(load_digits(return_X_y=True)[0])[:200]


def test_neighbourhoods_have_the_perplexity_asked_for() -> None:
    distances = ((DIGITS[:, None] - DIGITS) ** 2).sum(axis=2)
    near = embedding.neighbours(DIGITS, 20)
    assert near.sum() == pytest.approx(1)
    np.testing.assert_array_equal(near, near.T)
    assert not np.diagonal(near).any()
    assert near[0, distances[0].argsort()[1]] == near[0].max()
    # A sample's own share is not in the symmetric ones; far from all others, it has nobody else's.
    alone = np.concatenate([DIGITS, [[1000.0] * 64]])
    own = embedding.neighbours(alone, 20)[-1]
    own = own[own > 0] / own.sum()
    assert np.exp(-(own * np.log(own)).sum()) == pytest.approx(20, rel=0.01)


@pytest.mark.parametrize("attraction", [1.0, 12.0])
def test_the_gradient_is_the_slope(attraction: float) -> None:
    divergence = embedding.Divergence(embedding.neighbours(DIGITS, 20))
    random = np.random.default_rng(0)
    place = random.normal(size=400)
    _, gradient = divergence(place, attraction)
    step = 0.1 * gradient / np.linalg.norm(gradient)
    up, down = (divergence(place + sign * step, attraction)[0] for sign in (1, -1))
    assert gradient @ step == pytest.approx((up - down) / 2, rel=1e-2)


def test_the_divergence_is_the_one_that_it_says_and_none_is_lower() -> None:
    places, told = embedding.embedded(DIGITS, 30)
    kernel = 1 / (1 + ((places[:, None] - places) ** 2).sum(axis=2))
    np.fill_diagonal(kernel, 0)
    near, apart = embedding.neighbours(DIGITS, 30), kernel / kernel.sum()
    some = near > 0
    assert told == pytest.approx((near[some] * np.log(near[some] / apart[some])).sum(), rel=1e-3)
    usual = TSNE(perplexity=30, init="pca", random_state=0, max_iter=2000)
    usual.fit_transform(DIGITS)
    assert told <= usual.kl_divergence_


def test_a_second_time_the_map_is_the_same_and_duplicates_do_no_harm() -> None:
    twice = np.concatenate([DIGITS[:50], DIGITS[:50]])
    (first, told), (second, _) = (embedding.embedded(twice, 10) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()
    assert np.isfinite(told)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_unit_of_the_samples_does_not_matter(scale: float) -> None:
    expected = embedding.neighbours(DIGITS, 20)
    np.testing.assert_allclose(embedding.neighbours(scale * DIGITS, 20), expected, rtol=1e-6, atol=1e-12)


def test_the_principal_components_are_those_of_sklearn() -> None:
    expected = PCA(2).fit_transform(DIGITS)
    expected *= np.sign(expected[np.abs(expected).argmax(axis=0), [0, 1]]) / expected[:, 0].std()
    np.testing.assert_allclose(embedding.principal(DIGITS), expected, atol=1e-6)


@pytest.mark.parametrize("n", [4, 5, 12])
def test_a_few_samples_are_enough(n: int) -> None:
    places, told = embedding.embedded(DIGITS[:n], (n - 1) / 3)
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()
    assert told >= -1e-6
