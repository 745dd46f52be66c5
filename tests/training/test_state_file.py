"""A training's state as a checkpoint file."""

from pathlib import Path

import torch

from lab.training import state_file


def test_values_survive_the_file(tmp_path: Path) -> None:
    weights = torch.arange(6.0).view(2, 3).T  # not contiguous
    values = {"model.weight": weights, "step": 3, "epochs": [{"val_loss": 0.1}], "run": "abc"}
    path = tmp_path / "state.safetensors"
    path.write_bytes(state_file.encode(values))
    loaded = state_file.load(path)
    assert torch.equal(loaded.pop("model.weight"), weights)
    assert loaded == {"step": 3, "epochs": [{"val_loss": 0.1}], "run": "abc"}


def test_equal_values_give_equal_bytes() -> None:
    values = {"a": torch.ones(3), "b": torch.zeros(2), "step": 1, "run": "abc"}
    assert state_file.encode(values) == state_file.encode(values)
