"""Files of weights, whose names end in the first digits of their SHA-256."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

DIGITS = 8  # of the digest, in a file's name

Weights = dict[str, Tensor]


def is_named_after(digest: str, path: Path) -> bool:
    digits = path.stem.rsplit("-", 1)[-1]
    return len(digits) >= DIGITS and digest.startswith(digits)


def read(path: Path) -> Weights:
    """Read named tensors, in the file's order. Raises ValueError if it has anything else."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The restricted reader: tensors only.
        weights = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # noqa: BLE001 - a damaged file raises errors of any type
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"not a file of weights: {reason}") from None
    if isinstance(weights, dict) and all(isinstance(tensor, Tensor) for tensor in weights.values()):
        return weights
    raise ValueError("should contain named tensors and nothing else")
