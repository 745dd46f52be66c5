"""Trainings on a GPU that is not there: `python tests/fake_gpu.py` prints what is wrong with each, as JSON by its name.

torch's fake tensors have a device, a type and a shape, and no numbers. So all that a step asks for can be looked at:
that a GPU has everything at hand, waits for nothing and copies nothing to or from it, and that each kernel gives the
same bits every time. In a process of its own, since torch has to be told of a backend of no use for it.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.cuda.amp.common
from repository import ROOT
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.optim.optimizer import _foreach_supported_types
from torch.utils import _pytree, backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from lab import params, recipes
from lab.data.batches import Split
from lab.evaluation import inference, metrics
from lab.models import classifier
from lab.models.classifier import Card, Classifier
from lab.models.networks import MODELS
from lab.params import Values
from lab.training import device
from lab.training.augmentations import AUGMENTATIONS
from lab.training.cuda_graph import CapturedStep
from lab.training.device import Compute
from lab.training.loop import Trainer
from lab.training.losses import LOSSES, LossFunction
from lab.training.optimizers import OPTIMIZERS
from lab.training.state import PendingLoss, State, Step
from retrace.pipeline import params_file

CUDA, META = torch.device("cuda", 0), torch.device("meta")
SHAPES = {"circles": (2,), "cifar10": (3, 32, 32), "image_folder": (3, 64, 64), "digits": (1, 8, 8)}
SEVERAL = 3  # steps: optimizers have begun to remember

# Of `torch.use_deterministic_algorithms`: what has no deterministic kernel for CUDA.
IN_ANY_ORDER = re.compile(
    r"_?adaptive_(avg|max)_pool\w+_backward|fractional_max_pool\w+_backward|(avg|max)_pool3d\w*_backward|max_unpool\w+"
    r"|upsample_\w+_backward|(reflection|replication)_pad\w+_backward|grid_sampler\w*_backward|nll_loss2d\w*"
    r"|_ctc_loss_backward|_embedding_bag\w*_backward|put_?|histc|kthvalue|median|cumsum|scatter_reduce_?|bincount"
)

Wrong = dict[str, str]


class Gpu(FakeTensorMode):
    """Where tensors of a GPU are fake ones.

    Autograd has a queue for each GPU that there is. It is told that these are `meta`, which it works on by itself; and
    what it then wants on `meta` is on the GPU.
    """

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == META:
            kwargs["device"] = CUDA
        return super().dispatch(func, types, args, kwargs)


def pretend() -> None:
    """From here on this process works with fake tensors of a GPU, forwards and backwards."""
    torch._C._ensureCUDADeviceGuardSet()
    backend_registration._setup_privateuseone_for_python_backend(
        "none"
    )  # so that autograd asks for no GPU's streams
    handlers, asked = fake_tensor._DISPATCH_META_HANDLERS, torch.ops.prim.device.default
    told = handlers[asked]
    plain = FakeTensor.__torch_dispatch__

    def device(args: Any) -> torch.device:
        return META if args[0].fake_device.type == "cuda" else told(args)

    def dispatch(_: type, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return device(args) if func is asked else plain(func, types, args, kwargs)

    handlers[asked] = device
    replaced: dict[str, Any] = {
        "__torch_dispatch__": classmethod(dispatch),
        "device": property(
            lambda it: META if it.fake_mode.in_kernel_invocation else it.fake_device
        ),
        "is_cuda": property(lambda it: it.fake_device.type == "cuda"),
    }
    for name, value in replaced.items():
        setattr(FakeTensor, name, value)
    nn.Module._apply = moved  # pyright: ignore[reportAttributeAccessIssue]
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    _foreach_supported_types.append(FakeTensor)
    torch.cuda.Event = Event  # pyright: ignore[reportAttributeAccessIssue]


class Event:
    """In the place of `torch.cuda.Event`."""

    def record(self) -> None:
        pass


def moved(self: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """In the place of `nn.Module._apply`, which puts the old tensor's inside into the new one: no fake one has any."""

    def anew(tensor: Tensor) -> Tensor:
        empty = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
        )
        return change(empty)

    for module in self.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(anew(weight), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = anew(buffer)
    return self


class WrongError(Exception):
    """A GPU would not do this, or not at its best, or not twice to the same bits."""


class Watch(TorchDispatchMode):
    """Raises WrongError at an operation that is no good for a GPU; `alone`, also where it copies to or from it."""

    def __init__(self) -> None:
        super().__init__()
        self.alone = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if IN_ANY_ORDER.fullmatch(name):
            raise WrongError(f"{name} gives other bits each time")
        given = tensors((args, kwargs))
        if name.startswith("_fused_"):
            return updated(name, given, kwargs["lr"])
        try:
            found = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            raise WrongError(f"{name} waits for the GPU") from None
        if (
            self.alone
            and len({tensor.device for tensor in (*given, *tensors(found)) if tensor.ndim}) > 1
        ):
            raise WrongError(f"{name} copies between the GPU and the CPU")
        return found


def tensors(of: object) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(of) if isinstance(leaf, Tensor)]


def updated(name: str, given: list[Tensor], rate: Tensor) -> None:
    """The fused optimizers, which have no fake kernels, change what they are given."""
    if {tensor.device for tensor in given} != {CUDA}:
        raise WrongError(f"{name} is given what is not on the GPU")
    if rate.dtype is not torch.float32:
        raise WrongError(f"{name} is given a learning rate in {rate.dtype}")


def trained(
    values: Values, model: Classifier, change: Callable[[Classifier, LossFunction], LossFunction]
) -> None:
    """Some steps and a look at the validation part, as `values` say. Raises WrongError."""
    p = params.checked(values)
    n = 2 * p.batch_size + 7
    kind = torch.uint8 if values["dataset"] != "circles" else torch.float32
    shape = SHAPES.get(values["dataset"], (1, 28, 28))
    part = Split(
        torch.empty(n, *shape, dtype=kind, device=CUDA),
        torch.empty(n, dtype=torch.int64, device=CUDA),
    )
    augment = (
        None
        if p.augmentation.name == "none"
        else params.bind(AUGMENTATIONS, p.augmentation, "augmentations")
    )
    compute = Compute(
        torch.device("cuda"), torch.float32 if p.precision == "float32" else torch.bfloat16, 1
    )
    loss_of = change(model, params.bind(LOSSES, p.loss, "losses")(part.labels[:10]))
    learner, learnt = model, part
    if p.freeze_trunk:
        model.freeze_trunk()
        with compute.autocast():
            learner, learnt = model.head_alone(), inference.features(model, part)
        augment = None
    trainer = Trainer(
        state=State(
            learner, params.bind(OPTIMIZERS, p.optimizer, "optimizers")(learner.trainable()), CUDA
        ),
        train_split=learnt,
        validation_split=learnt,
        augment=augment,
        loss=loss_of,
        learning_rate=lambda _: 0.1,
        compute=compute,
        p=p,
    )
    state = trainer.state
    step = CapturedStep(trainer.step, state)
    step._can_be_captured = False
    learner.train()
    with Watch() as watch:
        for _, (inputs, labels) in zip(range(SEVERAL), trainer.batches(), strict=False):
            trainer.set_learning_rate()
            watch.alone = True
            loss, n_correct = step(inputs, labels)
            watch.alone = False
            state.totals.add(result := Step(1, len(labels), 0.1, loss, n_correct))
            PendingLoss(result)
        logits = inference.outputs(learner, learnt).logits
        metrics.mean_loss(logits, learnt.labels)
        metrics.n_correct(logits, learnt.labels)
    held = [*learner.state_dict().values(), *tensors(state.optimizer.state_dict())]
    if left := [tensor.shape for tensor in held if tensor.device != CUDA]:
        raise WrongError(f"of shapes {left}: not on the GPU")


def wrong(values: Values, change: Callable[..., Any] = lambda _, loss_of: loss_of) -> str:
    """What is, of a training with these parameters; nothing, if nothing is."""
    p = params.checked(values)
    shape = SHAPES.get(values["dataset"], (1, 28, 28))
    params.bind(MODELS, p.model, "models")
    n = shape[0]
    names = tuple("abcdefghij")
    card = Card(
        model=p.model.name, settings=p.model.settings, shape=shape, class_names=names, mean=(33.0,) * n,
        std=(78.0,) * n, pretrained=None, epoch=0,
    )  # fmt: skip
    with Gpu():
        model = classifier.build(card)
        if model.needs_data:
            model.initialize(classifier.example(card, 50))
        try:
            trained(values, model.to(CUDA), change)
        except (WrongError, RuntimeError) as error:
            return str(error)
    return ""


def reads(model: Classifier, loss_of: LossFunction) -> LossFunction:
    return lambda logits, labels: loss_of(logits, labels) * (1 + logits.mean().item())


def picks(model: Classifier, loss_of: LossFunction) -> LossFunction:
    return lambda logits, labels: loss_of(logits[labels > 0], labels[labels > 0])


def fetches(model: Classifier, loss_of: LossFunction) -> LossFunction:
    return lambda logits, labels: loss_of(logits, labels.cpu().to(CUDA))


def pools(model: Classifier, loss_of: LossFunction) -> LossFunction:
    model.trunk = nn.Sequential(
        nn.AdaptiveAvgPool2d(5), nn.Conv2d(1, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    model.head = nn.Linear(16, 10)
    model.to(CUDA)
    return loss_of


BROKEN = {
    "reads a number": reads,
    "picks samples": picks,
    "fetches labels": fetches,
    "pools in any order": pools,
}


def cases() -> Iterator[tuple[str, str]]:
    """Every recipe; every entry of the tables, on the CNN's digits; and what is wrong on purpose."""
    own = params_file.read(ROOT / "params.yaml")
    for name in recipes.titles():
        yield f"recipe {name}", wrong(recipes.load(name).values)
    for table, key in (
        ("losses", "loss"),
        ("optimizers", "optimizer"),
        ("augmentations", "augmentation"),
    ):
        for name in own[table]:
            yield f"{key} {name}", wrong(own | {key: name})
    both = {"label_smoothing": 0.1, "class_weights": "balanced"}
    yield "loss of both", wrong(own | {"losses": own["losses"] | {"cross_entropy": both}})
    for name in own["models"]:
        of_colours = {"dataset": "image_folder"} if name in ("vgg16", "torchvision") else {}
        yield f"model {name}", wrong(own | {"model": name, "augmentation": "none"} | of_colours)
    for name, change in BROKEN.items():
        yield f"broken: {name}", wrong(own, change)


if __name__ == "__main__":
    pretend()
    device.configure(params.checked(params_file.read(ROOT / "params.yaml")), "float32")
    print(json.dumps(dict(cases())))
