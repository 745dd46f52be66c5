"""The identities of experiments and of a stage's inputs."""

from pathlib import Path

import pytest

from lab import paths
from retrace.pipeline import identity, params_yaml

COMMANDS = {"fit": ["python fit.py"]}
PARAMS = {"lr": 0.1, "net.width": 3}
FILES = {"fit.py": "5d4", "data/raw": None}


def test_key_depends_on_all_parts() -> None:
    key = identity.key(COMMANDS, PARAMS, FILES)
    assert len(key) == 32
    others = [
        identity.key({"fit": ["python fit.py", "echo"]}, PARAMS, FILES),
        identity.key(COMMANDS, PARAMS | {"lr": 0.2}, FILES),
        identity.key(COMMANDS, PARAMS, FILES | {"data/raw": "f00"}),
    ]
    assert len({key, *others}) == 4


def test_key_ignores_the_order() -> None:
    params = dict(reversed(PARAMS.items()))
    files = dict(reversed(FILES.items()))
    assert identity.key(COMMANDS, params, files) == identity.key(COMMANDS, PARAMS, FILES)


def test_inputs_depend_on_the_command() -> None:
    before = identity.inputs("fit", ["a"], PARAMS, {"x": "1"})
    assert identity.inputs("fit", ("a",), PARAMS, {"x": "1"}) == before
    assert identity.inputs("fit", ["b"], PARAMS, {"x": "1"}) != before


@pytest.mark.usefixtures("folder")
def test_old_key_is_as_it_was(values: params_yaml.Values, tmp_path: Path) -> None:
    """Runs that are older than version 2 are verified by it."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/train.py").write_text("1")
    assert identity.key_1({"dataset": "mnist", "lr": 1}, tmp_path) == (
        "c5ac73aa09cd20ab2e12b1f6705f393b"
    )
    own = values | {"dataset": "image_folder"}
    before = identity.key_1(own, tmp_path)
    (tmp_path / paths.IMAGES).mkdir(parents=True)
    (tmp_path / paths.IMAGES / "cat.png").write_bytes(b"miaow")
    assert identity.key_1(own, tmp_path) != before
