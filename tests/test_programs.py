"""An exported program that is kept: filled with other weights it is the model that would be exported anew."""

from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import mlflow
import numpy as np
import pytest
import torch
from mlflow import pytorch
from mlflow.models import Model

from retrace import classifier, paths
from retrace.classifier import Card
from retrace.tracking import programs, served

OWN = "serialization_id"  # of every archive; nobody reads it


def trained(card: Card, seed: int) -> None:
    """models/ has a network with weights of its own."""
    torch.manual_seed(seed)
    classifier.save(classifier.build(card), card)


def packaged(folder: Path) -> Path:
    served.package(paths.WEIGHTS, paths.CARD, folder)
    return folder


def entries(folder: Path) -> dict[str, bytes]:
    with ZipFile(folder / programs.PT2) as archive:
        return {name: archive.read(name) for name in archive.namelist() if OWN not in name}


@pytest.mark.parametrize("model", ["cnn", "cifar_v3", "softmax_scratch"])  # batch norm, and weights of another kind
def test_a_filled_program_is_what_would_be_exported_anew(
    folder: Path, card_of: Callable[[str, int], Card], monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    card = card_of(model, 8)
    trained(card, 1)
    packaged(folder / "first")
    trained(card.model_copy(update={"epoch": 7}), 2)
    with monkeypatch.context() as patched:
        patched.setattr(pytorch, "save_model", None)
        filled = packaged(folder / "filled")
    for program in (folder / ".retrace/programs").iterdir():
        program.unlink()
    exported = packaged(folder / "exported")
    assert entries(filled) == entries(exported) != entries(folder / "first")
    assert {file.name for file in filled.rglob("*")} == {file.name for file in exported.rglob("*")}
    ids = {Model.load(str(folder / name)).model_uuid for name in ("first", "filled", "exported")}
    assert len(ids) == 3
    inputs = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    with torch.inference_mode():
        expected = torch.softmax(classifier.load()[0](torch.from_numpy(inputs)), dim=1).numpy()
    np.testing.assert_allclose(mlflow.pyfunc.load_model(str(filled)).predict(inputs), expected, atol=1e-6)


def test_another_network_and_other_code_are_other_programs(
    folder: Path, card_of: Callable[[str, int], Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for card in (card_of("mlp", 8), card_of("mlp", 9), card_of("mlp", 8).model_copy(update={"mean": (1.0,)})):
        trained(card, 0)
        seen.add(programs.of(paths.CARD))
    monkeypatch.setattr(programs, "LIBRARIES", ("torch",))
    seen.add(programs.of(paths.CARD))
    (folder / "retrace").mkdir()
    (folder / "retrace/__init__.py").touch()
    monkeypatch.setattr("retrace.__file__", str(folder / "retrace/__init__.py"))
    assert len(seen | {programs.of(paths.CARD)}) == 5


@pytest.mark.parametrize("damage", ["half", "a flipped bit", "nothing"])
def test_a_damaged_program_is_made_anew(folder: Path, card_of: Callable[[str, int], Card], damage: str) -> None:
    trained(card_of("mlp", 8), 0)
    first = packaged(folder / "first")
    program = programs.of(paths.CARD)
    content = bytearray(program.read_bytes())
    content[content.index(b"archive_version") + 30] ^= 1
    program.write_bytes({"half": program.read_bytes()[:-100], "a flipped bit": bytes(content), "nothing": b""}[damage])
    assert entries(packaged(folder / "second")) == entries(first)
    assert len(program.read_bytes()) > 100


def test_a_folder_that_cannot_be_written_keeps_no_program_and_no_model_away(
    folder: Path, card_of: Callable[[str, int], Card]
) -> None:
    trained(card_of("mlp", 8), 0)
    (folder / ".retrace").mkdir(exist_ok=True)
    (folder / ".retrace/programs").touch()
    assert (packaged(folder / "model") / "MLmodel").exists()
