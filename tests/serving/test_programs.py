"""An exported program that is kept: filled with other weights it is the model that would be exported anew."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import mlflow
import numpy as np
import pytest
import torch
from mlflow import pytorch
from mlflow.models import Model
from safetensors.torch import load_file, save_file

from lab import paths
from lab.models import classifier
from lab.models.classifier import Card
from lab.serving import package, programs
from retrace.errors import DataError
from retrace.system import files

OWN = "serialization_id"  # of every archive; nobody reads it


def trained(card: Card, seed: int) -> None:
    """models/ has a network with weights of its own."""
    torch.manual_seed(seed)
    classifier.save(classifier.build(card), card)


def packaged(folder: Path) -> Path:
    package.package(paths.WEIGHTS, paths.CARD, folder)
    return folder


def kept() -> list[Path]:
    return sorted(files.root().glob(".retrace/programs/*"))


def entries(folder: Path) -> dict[str, bytes]:
    with ZipFile(folder / programs.PT2) as archive:
        return {name: archive.read(name) for name in archive.namelist() if OWN not in name}


@pytest.mark.parametrize(
    "model", ["cnn", "cifar_v3", "softmax_scratch"]
)  # batch norm, and weights of another kind
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
    kept()[0].unlink()
    exported = packaged(folder / "exported")
    assert entries(filled) == entries(exported) != entries(folder / "first")
    assert {file.name for file in filled.rglob("*")} == {file.name for file in exported.rglob("*")}
    ids = {Model.load(str(folder / name)).model_uuid for name in ("first", "filled", "exported")}
    assert len(ids) == 3
    inputs = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    with torch.inference_mode():
        expected = torch.softmax(classifier.load()[0](torch.from_numpy(inputs)), dim=1).numpy()
    np.testing.assert_allclose(
        mlflow.pyfunc.load_model(str(filled)).predict(inputs), expected, atol=1e-6
    )


@pytest.mark.usefixtures("folder")
def test_another_network_and_other_code_are_other_programs(
    card_of: Callable[[str, int], Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for card in (
        card_of("mlp", 8),
        card_of("mlp", 9),
        card_of("mlp", 8).model_copy(update={"mean": (1.0,)}),
    ):
        trained(card, 0)
        seen.add(programs.of(paths.CARD))
    monkeypatch.setattr(programs, "LIBRARIES", ("torch",))
    seen.add(programs.of(paths.CARD))
    monkeypatch.setattr(programs, "CODE", "another")
    assert len(seen | {programs.of(paths.CARD)}) == 5


@pytest.mark.parametrize("cut", [None, -100])
def test_a_damaged_program_is_made_anew(
    folder: Path, card_of: Callable[[str, int], Card], cut: int | None
) -> None:
    trained(card_of("mlp", 8), 0)
    first = packaged(folder / "first")
    (program,) = kept()
    content = bytearray(whole := program.read_bytes())
    content[len(content) // 2] ^= 1
    program.write_bytes(content[:cut])
    assert entries(packaged(folder / "second")) == entries(first)
    assert [entry for path in kept() for entry in ZipFile(path).namelist()] == ZipFile(
        io.BytesIO(whole)
    ).namelist()


def test_a_program_that_would_write_elsewhere_is_not_used(
    folder: Path, card_of: Callable[[str, int], Card]
) -> None:
    trained(card_of("mlp", 8), 0)
    packaged(folder / "first")
    with ZipFile(kept()[0], "a") as program:
        program.writestr("../../out.txt", "no")
    with pytest.raises(DataError, match="is no file of a packaged model"):
        programs.fill(kept()[0], paths.WEIGHTS, folder / "deep/filled")
    assert not list(folder.rglob("out.txt"))


@pytest.mark.parametrize("change", ["wider", "more", "half"])
def test_weights_of_another_network_are_refused(
    folder: Path, card_of: Callable[[str, int], Card], change: str
) -> None:
    """As of a training by older code, which nobody uploaded until today."""
    trained(card_of("mlp", 8), 0)
    packaged(folder / "first")
    weights = load_file(paths.WEIGHTS)
    if change == "more":
        weights["other"] = torch.zeros(3)
    else:
        weights["head.weight"] = torch.zeros(2, 40)
    save_file(weights, paths.WEIGHTS)
    if change == "half":
        os.truncate(paths.WEIGHTS, 500)
    with pytest.raises(DataError, match="not a trained model"):
        packaged(folder / "second")
    assert not (folder / "second").exists()


def test_what_edited_code_made_is_not_kept_as_the_old_code_s(
    folder: Path, card_of: Callable[[str, int], Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(card_of("mlp", 8), 0)
    monkeypatch.setattr(programs, "CODE", "of this morning")
    packaged(folder / "model")
    assert not kept()


def test_the_newest_programs_are_kept(
    folder: Path, card_of: Callable[[str, int], Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "KEPT", 2)
    networks = []
    for side in (8, 9, 10):
        trained(card_of("mlp", side), 0)
        packaged(folder / f"model-{side}")
        networks.append(programs.of(paths.CARD))
        for program in kept():
            if networks[-1] in program.name:
                os.utime(program, (side, side))
    assert {program.name[:32] for program in kept()} == set(networks[1:])


def test_a_folder_that_cannot_be_written_keeps_no_program_and_no_model_away(
    folder: Path, card_of: Callable[[str, int], Card]
) -> None:
    trained(card_of("mlp", 8), 0)
    (folder / ".retrace").mkdir(exist_ok=True)
    (folder / ".retrace/programs").touch()
    assert (packaged(folder / "model") / "MLmodel").exists()
