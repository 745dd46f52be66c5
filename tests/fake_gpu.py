"""Trainings on a GPU of fake tensors: `python tests/fake_gpu.py` prints each one's defect, as JSON.

torch's fake tensors have a device, a type and a shape, but no numbers. They are enough to check
every operation of a step: its tensors are on the GPU, nothing waits for the GPU or is copied to or
from it, and each kernel is deterministic. Needs a process of its own, since it changes torch.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
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
from lab.data import batches
from lab.data.batches import Split
from lab.evaluation import inference, scores
from lab.models import classifier
from lab.models.classifier import Classifier, ModelConfig
from lab.models.networks import MODELS
from lab.params import Values
from lab.training import augmentations, device, optimizers
from lab.training.cuda_graph import CapturedStep
from lab.training.device import Compute
from lab.training.loop import Trainer
from lab.training.losses import LOSSES, LossFunction
from lab.training.optimizers import OPTIMIZERS
from lab.training.state import Pending, State, Step
from retrace.pipeline import params_yaml

CUDA = torch.device("cuda", 0)
META = torch.device("meta")
SHAPES = {"circles": (2,), "cifar10": (3, 32, 32), "image_folder": (3, 64, 64), "digits": (1, 8, 8)}
N_STEPS = 3  # enough for optimizers to have a state

# Without a deterministic kernel for CUDA, as `torch.use_deterministic_algorithms` lists them.
NOT_DETERMINISTIC = re.compile(
    r"_?adaptive_(avg|max)_pool\w+_backward|fractional_max_pool\w+_backward"
    r"|(avg|max)_pool3d\w*_backward|max_unpool\w+|upsample_\w+_backward"
    r"|(reflection|replication)_pad\w+_backward|grid_sampler\w*_backward|nll_loss2d\w*"
    r"|_ctc_loss_backward|_embedding_bag\w*_backward|put_?|histc|kthvalue|median|cumsum"
    r"|scatter_reduce_?|bincount"
)

Change = Callable[[Classifier, LossFunction], LossFunction]


class Gpu(FakeTensorMode):
    """A mode in which a GPU's tensors are fake.

    Autograd has a queue for each real GPU, so it gets `meta` as the device of these tensors. What
    it then creates on `meta` is created on the GPU.
    """

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == META:
            kwargs["device"] = CUDA
        result = super().dispatch(func, types, args, kwargs)
        if isinstance(result, FakeTensor):
            result.constant = None  # else a copy of it to the GPU is computed
        return result


def install() -> None:
    """Change torch in this process, so that forward and backward work with a GPU's fake tensors."""
    torch._C._ensureCUDADeviceGuardSet()
    # Autograd then does not look for a GPU's streams.
    backend_registration._setup_privateuseone_for_python_backend("none")
    handlers = fake_tensor._DISPATCH_META_HANDLERS
    device_of = torch.ops.prim.device.default
    original_device = handlers[device_of]
    original_dispatch = FakeTensor.__torch_dispatch__

    def device(args: Any) -> torch.device:
        return META if args[0].fake_device.type == "cuda" else original_device(args)

    def dispatch(_: type, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is device_of:
            return device(args)
        return original_dispatch(func, types, args, kwargs)

    handlers[device_of] = device
    replaced: dict[str, Any] = {
        "__torch_dispatch__": classmethod(dispatch),
        "device": property(
            lambda self: META if self.fake_mode.in_kernel_invocation else self.fake_device
        ),
        "is_cuda": property(lambda self: self.fake_device.type == "cuda"),
    }
    for name, value in replaced.items():
        setattr(FakeTensor, name, value)
    # A fake generator has no number to seed the host's with.
    batches.numpy_rng = lambda _: np.random.default_rng(0)
    nn.Module._apply = apply  # pyright: ignore[reportAttributeAccessIssue]
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    _foreach_supported_types.append(FakeTensor)
    torch.cuda.Event = Event  # pyright: ignore[reportAttributeAccessIssue]


class Event:
    """Stands in for `torch.cuda.Event`."""

    def record(self) -> None:
        pass


def apply(self: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Replace `nn.Module._apply`, which swaps the storages of tensors: fake ones have none."""

    def changed(tensor: Tensor) -> Tensor:
        empty = torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
        )
        return change(empty)

    for module in self.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(changed(weight), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = changed(buffer)
    return self


class WrongError(Exception):
    """An operation that a GPU cannot do, waits for, or gives other bits for each time."""


class Watch(TorchDispatchMode):
    """Raises WrongError where an operation waits for the GPU or is not deterministic there.

    With `forbids_copies`, also where it copies to or from the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forbids_copies = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if NOT_DETERMINISTIC.fullmatch(name):
            raise WrongError(f"{name} gives other bits each time")
        inputs = tensors((args, kwargs))
        if name.startswith("_fused_"):
            return check_fused(name, inputs, kwargs["lr"])
        try:
            result = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            raise WrongError(f"{name} waits for the GPU") from None
        devices = {tensor.device for tensor in (*inputs, *tensors(result)) if tensor.ndim}
        if self.forbids_copies and len(devices) > 1:
            raise WrongError(f"{name} copies between the GPU and the CPU")
        return result


def tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def check_fused(name: str, inputs: list[Tensor], rate: Tensor) -> None:
    """Check the inputs of a fused optimizer, which has no fake kernel. Raises WrongError."""
    if {tensor.device for tensor in inputs} != {CUDA}:
        raise WrongError(f"{name} is given what is not on the GPU")
    if rate.dtype is not torch.float32:
        raise WrongError(f"{name} is given a learning rate in {rate.dtype}")


def train(values: Values, model: Classifier, change: Change) -> None:
    """Train some steps, then evaluate. Raises WrongError."""
    p = params.checked(values)
    split = empty_split(values, 2 * p.batch_size + 7)
    precision = torch.float32 if p.precision == "float32" else torch.bfloat16
    compute = Compute(torch.device("cuda"), precision, 1)
    loss = change(model, params.bind(LOSSES, p.loss, "losses")(split.labels[:10]))
    augment = augmentations.create(p.augmentation, model.shape[1:])
    if p.freeze_backbone:
        model.freeze_backbone()
    if p.freeze_backbone and not p.unfreeze_epoch:
        with compute.autocast():
            split = inference.features(model, split)
        model = model.head_alone()
        augment = None
    optimizer = params.bind(OPTIMIZERS, p.optimizer, "optimizers")(optimizers.groups(model, p))
    trainer = Trainer(
        state=State(model, optimizer, compute, p.ema_decay),
        train_split=split,
        validation_split=split,
        augment=augment,
        loss=loss,
        learning_rate=lambda _: 0.1,
        compute=compute,
        p=p,
    )
    with Watch() as watch:
        run_steps(trainer, watch)
        logits = inference.outputs(model, split).logits
        scores.mean_loss(logits, split.labels)
        scores.n_correct(logits, split.labels)
    state = [*model.state_dict().values(), *tensors(optimizer.state_dict())]
    elsewhere = [tensor.shape for tensor in state if tensor.device != CUDA]
    if elsewhere:
        raise WrongError(f"of shapes {elsewhere}: not on the GPU")


def run_steps(trainer: Trainer, watch: Watch) -> None:
    """Run some steps as the loop does, without capturing them. Raises WrongError."""
    state = trainer.state
    step = CapturedStep(trainer.step, state)
    step._can_be_captured = False
    state.model.train()
    for _, (inputs, labels) in zip(range(N_STEPS), trainer.batches(), strict=False):
        trainer.set_learning_rate()
        watch.forbids_copies = True
        loss, n_correct = step(inputs, labels)
        watch.forbids_copies = False
        result = Step(1, len(labels), 0.1, loss, n_correct)
        state.totals.add(result)
        Pending(1, loss)


def shape_of(values: Values) -> tuple[int, ...]:
    return SHAPES.get(values["dataset"], (1, 28, 28))


def empty_split(values: Values, n: int) -> Split:
    """Return `n` fake samples of the data set, on the GPU."""
    kind = torch.float32 if values["dataset"] == "circles" else torch.uint8
    inputs = torch.empty(n, *shape_of(values), dtype=kind, device=CUDA)
    return Split(inputs, torch.empty(n, dtype=torch.int64, device=CUDA))


def keep(_: Classifier, loss: LossFunction) -> LossFunction:
    return loss


def defect(values: Values, change: Change = keep) -> str:
    """Return what is wrong with a training of these parameters; empty if nothing is."""
    p = params.checked(values)
    shape = shape_of(values)
    params.bind(MODELS, p.model, "models")
    config = ModelConfig(
        model=p.model.name,
        settings=p.model.settings,
        shape=shape,
        class_names=tuple("abcdefghij"),
        mean=(33.0,) * shape[0],
        std=(78.0,) * shape[0],
        pretrained=None,
        epoch=0,
    )
    with Gpu():
        model = classifier.build(config)
        if model.needs_data:
            model.initialize(classifier.example(config, 50))
        try:
            train(values, model.to(CUDA), change)
        except (WrongError, RuntimeError) as error:
            return str(error)
    return ""


def reads(model: Classifier, loss: LossFunction) -> LossFunction:
    return lambda logits, labels: loss(logits, labels) * (1 + logits.mean().item())


def picks(model: Classifier, loss: LossFunction) -> LossFunction:
    return lambda logits, labels: loss(logits[labels > 0], labels[labels > 0])


def fetches(model: Classifier, loss: LossFunction) -> LossFunction:
    return lambda logits, labels: loss(logits, labels.cpu().to(CUDA))


def pools(model: Classifier, loss: LossFunction) -> LossFunction:
    model.trunk = nn.Sequential(
        nn.AdaptiveAvgPool2d(5), nn.Conv2d(1, 4, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    model.head = nn.Linear(16, 10)
    model.to(CUDA)
    return loss


BROKEN = {
    "reads a number": reads,
    "picks samples": picks,
    "fetches labels": fetches,
    "pools in any order": pools,
}


def cases() -> Iterator[tuple[str, str]]:
    """Yield the defects of recipes, of each table's entries, and of broken trainings, by name."""
    own = params_yaml.read(ROOT / "params.yaml")
    for name in recipes.titles():
        yield f"recipe {name}", defect(recipes.load(name).values)
    for table, key in (
        ("losses", "loss"),
        ("optimizers", "optimizer"),
        ("augmentations", "augmentation"),
    ):
        for name in own[table]:
            yield f"{key} {name}", defect(own | {key: name})
    both = {"label_smoothing": 0.1, "class_weights": "balanced"}
    yield (
        "loss smoothed and weighted",
        defect(own | {"losses": own["losses"] | {"cross_entropy": both}}),
    )
    step = {"accumulation": 3, "clip_norm": 1.0, "layer_decay": 0.5}
    yield "step in parts, clipped, by layers", defect(own | step)
    for name in own["models"]:
        of_color = {"dataset": "image_folder"} if name in ("vgg16", "torchvision", "timm") else {}
        yield f"model {name}", defect(own | {"model": name, "augmentation": "none"} | of_color)
    for name, change in BROKEN.items():
        yield f"broken: {name}", defect(own, change)


if __name__ == "__main__":
    install()
    device.configure(params.checked(params_yaml.read(ROOT / "params.yaml")), "float32")
    print(json.dumps(dict(cases())))
