"""Batches: shuffled, augmented, and none of a single sample."""

import pytest
import torch
from torch import Tensor

from lab.data import batches
from lab.data.samples import Samples
from retrace.errors import ParamsError


def numbered(n: int) -> batches.Split:
    """Return samples whose inputs and label are their number."""
    return batches.Split(torch.arange(2.0 * n).view(n, 2), torch.arange(n))


def labels_by_batch(split: batches.Split, size: int, seed: int = 0, epoch: int = 0) -> list[Tensor]:
    epochs = batches.shuffled(split, size, None, torch.Generator(), seed=seed, epoch=epoch)
    return [labels for _, labels in epochs]


def test_order_depends_on_seed_and_epoch() -> None:
    split = numbered(240)

    def order(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(torch.cat(labels_by_batch(split, 50, seed, epoch)).tolist())

    assert sorted(order(0, 0)) == list(range(240))
    assert order(0, 0) == order(0, 0)
    assert len({order(0, 0), order(0, 1), order(1, 0), order(1, 1)}) == 4


@pytest.mark.parametrize("augmented", [False, True])
def test_one_batch_keeps_the_split(augmented: bool) -> None:
    split = numbered(240)
    laid_out = batches.laid_out(split, 240)
    assert isinstance(laid_out.inputs, torch.Tensor)
    assert isinstance(split.inputs, torch.Tensor)
    augment = (lambda inputs, _: inputs.zero_()) if augmented else None
    assert laid_out.inputs.T.is_contiguous()
    for epoch in range(2):
        ((inputs, labels),) = batches.shuffled(
            laid_out, 240, augment, torch.Generator(), seed=0, epoch=epoch
        )
        assert (inputs is laid_out.inputs) is (not augmented)
        assert torch.equal(labels, split.labels)
        assert torch.equal(laid_out.inputs, split.inputs)
    assert batches.laid_out(split, 239) is split


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [(7, 3, [3, 4]), (8, 3, [3, 3, 2]), (6, 3, [3, 3]), (1, 3, [1]), (240, 50, [50] * 4 + [40])],
)
def test_no_batch_has_one_sample(n: int, size: int, sizes: list[int]) -> None:
    split = numbered(n)
    assert [len(labels) for labels in labels_by_batch(split, size)] == sizes
    assert batches.count(split, size) == len(sizes)


def test_full_gpu_is_one_line(stripes: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 19.53 KiB.")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(ParamsError, match=r"^params.yaml: .*0\.0 GB.*`device: cpu`") as raised:
        batches.on_device(stripes, torch.device("cuda"))
    assert "\n" not in str(raised.value)


def drawn(labels: Tensor, size: int, seed: int = 0, epoch: int = 0, after: int = 0) -> list[Tensor]:
    split = batches.Split(torch.arange(float(len(labels)))[:, None], labels)
    epochs = batches.shuffled(
        split,
        size,
        None,
        torch.Generator(),
        seed=seed,
        epoch=epoch,
        after=after,
        sampling="balanced",
    )
    return [torch.stack([inputs[:, 0].long(), labels]) for inputs, labels in epochs]


def test_balanced_draws_classes_equally() -> None:
    labels = torch.tensor([0] * 900 + [2] * 90 + [3] * 10)  # none of class 1
    numbers, own = torch.cat(drawn(labels, 100), dim=1)
    assert torch.equal(labels[numbers], own)
    counts = own.bincount()
    assert len(own) == 1000
    assert counts[1] == 0
    assert counts[[0, 2, 3]].tolist() == pytest.approx([333] * 3, abs=60)
    assert set(numbers[own == 3].tolist()) == set(range(990, 1000))
    assert len(numbers[own == 0].unique()) > 250


def test_balanced_depends_on_seed_and_epoch() -> None:
    labels = torch.arange(240) % 3
    whole = drawn(labels, 50)
    orders = [drawn(labels, 50, *both) for both in ((0, 0), (0, 1), (1, 0))]
    assert all(torch.equal(one, other) for one, other in zip(whole, orders[0], strict=True))
    assert not torch.equal(whole[0], orders[1][0])
    assert not torch.equal(whole[0], orders[2][0])
    resumed = drawn(labels, 50, after=3)
    assert all(torch.equal(one, other) for one, other in zip(whole[3:], resumed, strict=True))


def test_balanced_batch_of_all_is_drawn() -> None:
    labels = torch.tensor([0] * 99 + [1])
    (batch,) = drawn(labels, 1000)
    assert batch[1].bincount().tolist() == pytest.approx([50, 50], abs=20)
