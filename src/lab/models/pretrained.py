"""Pretrained weights: torchvision's, or those of a file.

A file's name ends in the first digits of its SHA-256, as torchvision's do, and must match them: so
a file that params.yaml names is identified. The model's config has the whole digest. torchvision's
files are pickles; torch's restricted reader loads nothing but tensors from them.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lab.data import sources
from lab.errors import FetchError
from lab.models.backbone import Backbone
from lab.models.classifier import Classifier
from retrace.errors import ParamsError
from retrace.pipeline import hashing
from retrace.system import files

LARGEST = 4 << 30  # bytes; torchvision's own are smaller
DIGITS = 8  # of the digest, in a file's name

Weights = dict[str, Tensor]


def load_into(model: Classifier, pretrained: str) -> str:
    """Load the weights into the model, and return the SHA-256 of their file.

    A head for other classes keeps its new weights. Raises ParamsError if the file is missing, does
    not match its name, or has no weights for the model's backbone.
    """
    path = _default(model) if pretrained == "DEFAULT" else Path(pretrained)
    if not path.is_file():
        reason = "no such file; should be an existing file, DEFAULT or none"
        raise ParamsError(f"params.yaml: pretrained is {pretrained!r}: {reason}")
    digest = hashing.sha256(path)
    if not _is_named_after(digest, path):
        right = f"{path.stem}-{digest[:DIGITS]}{path.suffix}"
        reason = "the file's name should end in the first digits of its SHA-256"
        raise ParamsError(
            f"params.yaml: pretrained is {pretrained!r}; {reason}; rename it to {right}"
        )
    weights = _read(path)
    if isinstance(model.trunk, Backbone) and not any(name.startswith("trunk.") for name in weights):
        weights = model.trunk.renamed(weights)
    own = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and tensor.shape == own[name].shape
    }
    lacking = [
        name
        for name in own
        if name.startswith("trunk.") and name not in fitting and not _is_counter(name)
    ]
    if lacking or not fitting:
        reason = f"{lacking[0]} is missing or has another shape" if lacking else "no name matches"
        raise ParamsError(
            f"params.yaml: pretrained is {pretrained!r}, whose weights are not for this model: "
            f"{reason}; choose the model that they were saved from"
        )
    model.load_state_dict(own | fitting)
    return digest


def _is_counter(name: str) -> bool:
    """Check for batch norm's unused counter, which torchvision's older files lack."""
    return name.endswith(".num_batches_tracked")


def _default(model: Classifier) -> Path:
    """Find torchvision's best weights in the user's cache; download them if missing."""
    if not isinstance(model.trunk, Backbone):
        raise ParamsError(
            "params.yaml: pretrained is 'DEFAULT', which only torchvision's models have; "
            "give a file or none"
        )
    from torchvision import models

    address = models.get_model_weights(model.trunk.name)["DEFAULT"].url
    path = files.cache("weights") / address.rsplit("/", 1)[-1]
    if not path.is_file():
        try:
            with files.atomic(path) as unfinished:
                sources.download(address, unfinished, LARGEST)
                if not _is_named_after(hashing.sha256(unfinished), path):
                    raise FetchError(
                        f"the file at {address} does not match the SHA-256 in its name"
                    )
        except (FetchError, OSError) as error:
            raise ParamsError(
                f"params.yaml: pretrained is 'DEFAULT', but the download failed ({error}); "
                f"put {path.name} at {path}, or set pretrained to a file or none"
            ) from None
    return path


def _is_named_after(digest: str, path: Path) -> bool:
    digits = path.stem.rsplit("-", 1)[-1]
    return len(digits) >= DIGITS and digest.startswith(digits)


def _read(path: Path) -> Weights:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The restricted reader: tensors only.
        weights = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # noqa: BLE001 - a damaged file raises errors of any type
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ParamsError(
            f"params.yaml: pretrained is {str(path)!r}: not a file of weights: {reason}"
        ) from None
    if isinstance(weights, dict) and all(isinstance(tensor, Tensor) for tensor in weights.values()):
        return weights
    raise ParamsError(
        f"params.yaml: pretrained is {str(path)!r}: should contain named tensors and nothing else"
    )
