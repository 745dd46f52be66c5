"""Whatever functions do with tensors, a script does, to the bit: as often as it is played, with whatever is given."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from retrace import layers, losses, optimizers, script, tape
from retrace.calls import Call, Name, aten, compiled

N = 4  # rows and columns: every operation below takes and gives square matrices, or parts of them that are made so
Operation = Callable[[Tensor, Tensor], Tensor]


def through_a_gradient(a: Tensor, b: Tensor) -> Tensor:
    """What autograd does of its own: expanding, copying and adding up what it finds."""
    weight = b.detach().clone().requires_grad_()
    with torch.enable_grad():
        ((a.detach() @ weight).relu() * weight.sum()).mean().backward()
    assert weight.grad is not None
    return weight.grad


def copied(a: Tensor, _: Tensor) -> Tensor:
    place = a.new_empty_strided(a.shape, a.stride() if 0 not in a.stride() else (N, 1))
    place.copy_(a)
    return place


def copied_and_changed(a: Tensor, b: Tensor) -> Tensor:
    of = a * 2
    return of + copied(of, b).add_(b)


def laid_out_otherwise(a: Tensor, _: Tensor) -> Tensor:
    return a.new_empty_strided(a.shape, (1, N)).copy_(a * 2)


def in_the_middle(a: Tensor, b: Tensor) -> Tensor:
    a[1:3, 1:3] = b[:2, :2]
    return a


OPERATIONS: dict[str, Operation] = {
    "sum": lambda a, b: a + b,
    "difference": lambda a, b: torch.sub(a, b, alpha=2),
    "product": lambda a, b: a @ b,
    "affine": lambda a, b: torch.addmm(a[0], a, b),
    "transposed": lambda a, _: a.t(),
    "turned twice": lambda a, _: a.t().t(),
    "as another shape": lambda a, _: a.reshape(2, 8).reshape(N, N),
    "a row of each": lambda a, b: a[:1].expand(N, N) - b[:, :1],
    "positive": lambda a, _: a.relu(),
    "made positive": lambda a, _: a.relu_(),
    "added to": lambda a, b: a.add_(b),
    "its column's largest": lambda a, _: a.max(dim=0, keepdim=True).values.expand(N, N),
    "rows in another order": lambda a, _: a.index_select(0, torch.tensor([2, 0, 3, 1])),
    "as shares": lambda a, _: torch.log_softmax(a, 1).exp(),
    "halves changed": lambda a, b: torch.cat([b[2:], a[:2]]),
    "parts": lambda a, b: torch.cat([*a.split(1)[1:], b[:1]]),
    "detached": lambda a, _: a.detach(),
    "a layer": lambda a, b: torch.addmm(a[:, :1], a, b).t().relu(),
    "a layer as it lies": lambda a, b: torch.addmm(b[0], a, b).relu(),
    "a layer looked at twice": lambda a, b: (of := torch.addmm(a[:, :1], a, b)).relu() - of,
    "half a layer": lambda a, b: torch.addmm(b[0], a, b)[::2].relu().repeat(2, 1),
    "cloned": lambda a, _: a.clone(),
    "copied": copied,
    "made and copied": lambda a, b: copied(a + b, b),
    "copied and changed": copied_and_changed,
    "laid out otherwise": laid_out_otherwise,
    "cloned and changed": lambda a, b: a.clone().mul_(b),
    "zeros, filled": lambda a, b: a.new_zeros(a.shape).add_(b),
    "always ones": lambda a, b: torch.ones_like(a).neg() * b,
    "written in the middle": in_the_middle,
    "a gradient": through_a_gradient,
    "by one of the other's numbers": lambda a, b: a * b[1, 2],
    "less a number's tensor, by a number": lambda a, b: b - a.sum() * 1.1,
    "in bfloat16": lambda a, _: (a.bfloat16() * 1.1 + 1e-3).float(),
    "in whole numbers": lambda a, _: (a.int() * 3 + 1).float() + a.int() * 0.3,
    "in float64 and back": lambda a, _: (a.to(torch.float64) / 3).to(torch.float32),
    "where it is larger": lambda a, b: torch.where(a > 0.5, a, b),
    "columns by a list": lambda a, _: a[:, torch.tensor([2, 0, 3, 1])],
    "by its greatest, kept in bounds": lambda a, _: (a / a.abs().amax()).clamp(-1, 0.5),
    "as a picture of two channels": lambda a, _: (
        a.reshape(1, 2, 2, N).to(memory_format=torch.channels_last).reshape(N, N)
    ),
    "to a whole power": lambda a, _: torch.nn.functional.threshold(a, 0, 1) + torch.linalg.vector_norm(a, 2),
    "with a place": lambda a, b: torch.add(a, b, out=torch.empty(N, N)) + 1,
    "its least and its greatest": lambda a, b: b.clamp(a.min(), a.max()),
    "ones where it is negative": lambda a, _: a.clone().index_put_((a < 0,), torch.tensor(1.0)),
    "rows by the other's order": lambda a, b: a[b[0].argsort()],
    "by numbers of two kinds": lambda a, b: torch.ops.aten._foreach_mul([a, b], [1.5, 2])[0],
    "by numbers of one kind": lambda a, b: torch.ops.aten._foreach_mul([a, b], [3, 2])[1],
    "normalised, transposed": lambda a, _: torch.nn.functional.batch_norm(a.t(), None, None, training=True) * 1,
    "every other": lambda a, b: torch.cat([a.split(2)[0], b.unbind()[3][None], b[:1]]),
}

WRITING = {"made positive", "added to", "written in the middle"}

Line = tuple[str, int, int]
lines = st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 99), st.integers(0, 99)), max_size=12)


def doing(program: Sequence[Line], found: Tensor) -> Callable[[Tensor], list[Tensor]]:
    """A function that does all of this, each with two of the tensors that are there, and gives what came last."""

    def function(given: Tensor) -> list[Tensor]:
        there = [given, given * 1.5, found]
        for name, first, second in program:
            a, b = there[first % len(there)], there[second % len(there)]
            if name in WRITING:
                if 0 in a.stride() or a.untyped_storage().data_ptr() == given.untyped_storage().data_ptr():
                    continue  # what was given is changed by nothing, as a batch is
                b = b.clone()
            there.append(OPERATIONS[name](a, b))
        # What was given or found would be changed later, as it is by the function.
        held = {tensor.untyped_storage().data_ptr() for tensor in (given, found)}
        return [one + 0 if one.untyped_storage().data_ptr() in held else one for one in there[-2:]]

    return function


def made(seed: int) -> Tensor:
    return torch.randn(N, N, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("small", [script.SMALL, 0], ids=["in their places", "made anew"])
@given(program=lines)
@example(program=[("laid out otherwise", 0, 0)])
@example(program=[("by one of the other's numbers", 0, 2), ("added to", 2, 0)])
@example(program=[("sum", 0, 1), ("copied", 3, 0)])
@example(program=[("a gradient", 0, 0), ("a gradient", 0, 0), ("copied", 3, 0)])
@settings(max_examples=300, deadline=None)
def test_whatever_is_done_is_done_again(small: int, program: list[Line]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "SMALL", small)
        plain, recorded = made(0), made(0)
        function, play = doing(program, plain), tape.record(doing(program, recorded), made(1))
        recorded.copy_(plain)
        earlier: list[tuple[Sequence[Tensor], Sequence[Tensor]]] = []
        for seed in (2, 3, 4):
            does, says = function(made(seed)), play(made(seed))
            earlier.append(([one.clone() for one in does], says))
            assert [one.stride() for one in does] == [one.stride() for one in says]
            assert len({one.data_ptr() for one in does}) == len({one.data_ptr() for one in says})
            assert same([plain], [recorded])
            assert all(same(did, said) for did, said in earlier)


def same(does: Sequence[Tensor], says: Sequence[Tensor]) -> bool:
    """To the bit, so that NaN is NaN, and 0 not -0."""
    return all(
        torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))
        for a, b in zip(does, says, strict=True)
    )


class Asked(TorchDispatchMode):
    """What torch is asked for within."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func).removeprefix("aten."))
        return func(*args, **(kwargs or {}))


def test_a_step_is_its_products_and_little_else() -> None:
    """Two layers, cross-entropy, gradients and Adam: no view of a weight, no copy, nothing that is always the same."""
    first, second = layers.Linear(2, 8), layers.Linear(8, 3)
    optimizer = optimizers.adam([*first.parameters(), *second.parameters()], betas=[0.9, 0.999])
    loss_of = losses.cross_entropy(torch.tensor([17, 17, 16]), label_smoothing=0.0, class_weights="none")

    def step(inputs: Tensor, labels: Tensor) -> list[Tensor]:
        loss = loss_of(second(first(inputs).relu()), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return [loss.detach()]

    batch = torch.randn(50, 2), torch.arange(50) % 3
    step(*batch)
    play = tape.record(step, *batch)
    with Asked() as asked:
        play(*batch)
    assert asked.names == [
        *("permute.default", "_addmm_activation.out", "addmm.out"),
        *("view.default", "_log_softmax.out", "nll_loss2d_forward.default", "nll_loss2d_backward.grad_input"),
        *("_log_softmax_backward_data.out", "mm.out", "mm.out", "sum.IntList_out"),
        *("threshold_backward.grad_input", "mm.out", "sum.IntList_out"),
        *("_foreach_add_.List", "_fused_adam_.default"),
    ]


def test_chance_is_asked_as_often_also_where_nobody_looks() -> None:
    def function(given: Tensor) -> list[Tensor]:
        torch.rand(3)
        torch.empty(2).normal_()
        return [given * torch.rand(3)]

    play = tape.record(function, torch.ones(3))
    found = []
    for does in (function, play):
        torch.manual_seed(0)
        found.append(torch.stack([does(torch.ones(3))[0] for _ in range(3)]))
    assert torch.equal(*found)


def test_what_the_interpreter_would_do_otherwise_is_not_recorded() -> None:
    given, made = Name("given"), Name("made")
    a_number_for_a_tensor = Call(aten.mul.Tensor, [given, 2.0], [made])
    with pytest.raises(RuntimeError, match=r"mul\.Scalar.* would be done for .*mul\.Tensor"):
        compiled([given], [a_number_for_a_tensor], {}, [made])


@pytest.mark.parametrize(
    ("kind", "does"),
    [
        (torch.float16, lambda a: [a[0, 0] * 1.1]),
        (torch.bfloat16, lambda a: [a[0, 0] / 0.3333333]),
        (torch.uint8, lambda a: [a / -3]),
        (torch.uint8, lambda a: [a * 300]),
    ],
)
def test_a_number_that_a_tensor_cannot_be_is_not_recorded(kind: torch.dtype, does: Any) -> None:
    with pytest.raises(script.UnrecordableError):
        tape.record(does, torch.ones(N, N).to(kind))


def test_an_operation_that_fails_says_what_torch_says() -> None:
    play = tape.record(lambda given: [torch.ones(5).index_select(0, given) * 2], torch.tensor([1, 4]))
    with pytest.raises(RuntimeError, match=r"^index out of range in self$"):
        play(torch.tensor([1, 5]))


def test_what_lies_elsewhere_or_is_of_another_kind_is_not_taken_for_the_same() -> None:
    given = torch.arange(16.0).view(4, 4)
    for function in (
        lambda a: [a[2:].clone().as_strided((4, 2), (2, 1), 0) * 2],
        lambda a: [torch.addmm(a[0], a, a).view(torch.int32).relu() + 1],
    ):
        assert torch.equal(tape.record(function, given)(given)[0], function(given)[0])


@pytest.mark.parametrize("few", [True, False])
def test_beside_large_tensors_no_small_one_keeps_its_place(monkeypatch: pytest.MonkeyPatch, few: bool) -> None:
    monkeypatch.setattr(script, "FEW", script.FEW if few else 1)
    given = torch.ones(3)
    play = tape.record(lambda given: [given.exp().log() * 2], given)
    with Asked() as asked:
        play(given)
    assert asked.names == [*(["exp.out", "log.out"] if few else ["exp.default", "log.default"]), "mul.Tensor"]
