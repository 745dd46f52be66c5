"""`retrace lr-find`: what it prints, and that it keeps nothing but its figure."""

import json
from pathlib import Path

import pytest

from lab import paths
from lab.cli import lr_find
from lab.data import storage
from lab.data.samples import Samples
from retrace.errors import DataError, ParamsError, RetraceError
from retrace.pipeline import params_yaml

SMALL = ["device=cpu", "threads=1", "precision=float32", "batch_size=40"]


@pytest.fixture
def repository(folder: Path, stripes: Samples) -> Path:
    storage.save(paths.TRAIN, stripes, storage.scale(stripes))
    storage.save(paths.VALIDATION, stripes)
    return folder


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_suggestion_twice_and_no_trace(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(repository)
    documents = []
    for _ in range(2):
        lr_find.find(SMALL, 40, as_json=True)
        documents.append(capsys.readouterr().out)
    assert documents[0] == documents[1]
    facts = json.loads(documents[0])
    assert facts["lr"] == pytest.approx(facts["lowest_loss_lr"] / 10, rel=0.05)
    assert facts["command"] == " ".join(
        ["dvc exp run", *(f"-S {change}" for change in SMALL), f"-S lr={facts['lr']:g}"]
    )
    figure = Path(facts["figure"])
    assert figure == repository / ".retrace/lr-find.png"
    after = contents(repository)
    assert after.pop(figure).startswith(b"\x89PNG")
    assert after == before


def test_text_ends_with_the_next_command(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del repository
    lr_find.find([*SMALL, "batch_size=auto"], 40, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "batches of 256" in lines[0]
    assert lines[-1].startswith("next: dvc exp run -S device=cpu")


def test_frozen_backbone_is_tested_by_its_head(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del repository
    changes = [*SMALL, "freeze_backbone=true", "augmentation=none"]
    lr_find.find(changes, 40, as_json=True)
    assert json.loads(capsys.readouterr().out)["lr"] > 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("batch_size=none", ParamsError, "a number of 1 or more, or auto"),
        ("dataset=digits", RetraceError, "dvc repro preprocess"),
        ("seed=a", ParamsError, "seed is 'a'"),
        ("nothing=1", RetraceError, "nothing"),
    ],
)
def test_wrong_change_is_refused(
    repository: Path, change: str, error: type[Exception], words: str
) -> None:
    params_before = params_yaml.read(repository / paths.PARAMS)
    with pytest.raises(error, match=words):
        lr_find.find([change], 40, as_json=False)
    assert params_yaml.read(repository / paths.PARAMS) == params_before


@pytest.mark.usefixtures("folder")
def test_missing_data_names_its_command() -> None:
    with pytest.raises(DataError, match="`dvc repro preprocess`"):
        lr_find.find(SMALL, 40, as_json=False)
