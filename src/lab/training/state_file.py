"""A training's state as a checkpoint file: tensors, and all other values as JSON."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from retrace import checkpoint


def encode(values: dict[str, Any]) -> bytes:
    """Return a safetensors file of the tensors, with all other values in its metadata."""
    tensors = {
        name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)
    }
    # One metadata key: safetensors writes several in random order.
    facts = json.dumps({name: value for name, value in values.items() if name not in tensors})
    return safetensors.torch.save(tensors, {"facts": facts})


def decode(content: bytes) -> dict[str, Any]:
    """Return what was encoded."""
    end = 8 + int.from_bytes(content[:8], "little")  # of the header, which is JSON
    facts = json.loads(content[8:end])["__metadata__"]["facts"]
    return safetensors.torch.load(content) | json.loads(facts)


def load(path: Path) -> dict[str, Any]:
    """Return the values of a checkpoint file."""
    return safetensors.torch.load_file(path) | checkpoint.facts(path)
