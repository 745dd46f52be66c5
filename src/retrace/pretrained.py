"""Weights from elsewhere to start from: torchvision's, by its own name for them, or a file's.

torchvision's files are pickles. They are read by torch's restricted reader, which makes tensors and nothing else, and
only when their SHA-256 begins as the file's name says.
"""

import hashlib
import os
from pathlib import Path

import platformdirs
import torch
from safetensors.torch import load_file
from torch import Tensor

from retrace import paths, sources
from retrace.classifier import Classifier
from retrace.errors import FetchError, ParamsError
from retrace.transfer import Backbone

LARGEST = 4 << 30  # bytes; torchvision's own are smaller


def load_into(model: Classifier, pretrained: str) -> str:
    """`model` starts from these weights; returns the SHA-256 of their file.

    A head for other classes keeps its new weights. Raises ParamsError where the file is missing, or the network's
    trunk is not what it holds.
    """
    path = _default(model) if pretrained == "DEFAULT" else Path(pretrained)
    if not path.is_file():
        raise ParamsError(f"params.yaml: pretrained is {pretrained!r}: no such file; give one, DEFAULT or none")
    digest = _sha256(path)
    weights = _read(path)
    if isinstance(model.trunk, Backbone) and not any(name.startswith("trunk.") for name in weights):
        weights = model.trunk.renamed(weights)
    own = model.state_dict()
    fitting = {name: tensor for name, tensor in weights.items() if name in own and tensor.shape == own[name].shape}
    if lacking := [name for name in own if name.startswith("trunk.") and name not in fitting]:
        raise ParamsError(
            f"params.yaml: pretrained is {pretrained!r}, whose weights are not this model's: {lacking[0]} is missing "
            f"or of another shape; choose the model that made them"
        )
    model.load_state_dict(own | fitting)
    return digest


def _default(model: Classifier) -> Path:
    """Torchvision's best weights of the network, in the user's cache; fetched if they are not there yet."""
    if not isinstance(model.trunk, Backbone):
        raise ParamsError("params.yaml: pretrained is 'DEFAULT', which torchvision's models have; give a file or none")
    from torchvision import models

    address = models.get_model_weights(model.trunk.name)["DEFAULT"].url
    name = address.rsplit("/", 1)[-1]
    path = Path(os.environ.get("RETRACE_CACHE") or platformdirs.user_cache_path("retrace")) / "weights" / name
    if not path.is_file():
        try:
            with paths.atomic(path) as unfinished:
                sources.download(address, unfinished, LARGEST)
        except FetchError as error:
            raise ParamsError(
                f"params.yaml: pretrained is 'DEFAULT', and the weights are not here ({error}); "
                f"put {name} at {path}, or set pretrained to a file or none"
            ) from None
    prefix = path.stem.rsplit("-", 1)[-1]
    if not (digest := _sha256(path)).startswith(prefix):
        raise ParamsError(f"{path}: its SHA-256 begins with {digest[:8]}, not {prefix}; remove it")
    return path


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - tensors alone, see above
    except Exception as error:  # noqa: BLE001 - whatever a file of anything makes the readers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ParamsError(f"params.yaml: pretrained is {str(path)!r}: not a file of weights: {reason}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
