"""A split in shards trains the same weights as one in a file, and DVC fetches shards one by one."""

import shutil
from pathlib import Path

import pytest
from cluster.lab import SMALL
from repository import Clone, Tree

from lab import paths

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("shards")]

EDITS = SMALL | {"epochs: 5": "epochs: 2"}
NAMES = ["00000-of-00002.safetensors", "00001-of-00002.safetensors"]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clone, bytes]:
    """Return a clone with the results of a split in shards, and the weights of one in a file."""
    cache = tmp_path_factory.mktemp("cache")
    clone = Clone(tmp_path_factory.mktemp("clone"), cache, EDITS)
    clone.type("dvc repro train")
    weights = (clone.path / paths.WEIGHTS).read_bytes()
    (clone.path / paths.WEIGHTS).unlink()
    clone.type("dvc exp run -S shard_mb=1 evaluate")
    clone.commit("shards")
    return clone, weights


def test_shards_train_the_same_weights(sharded: tuple[Clone, bytes]) -> None:
    clone, weights = sharded
    assert clone.type("ls data/processed/train.safetensors").split() == NAMES
    assert (clone.path / paths.WEIGHTS).read_bytes() == weights
    clone.type("dvc repro evaluate | grep -q 'up to date'")


def test_one_shard_is_pulled(sharded: tuple[Clone, bytes], tmp_path: Path) -> None:
    clone, _ = sharded
    clone.type(f"dvc remote add --default here {tmp_path / 'remote'} && dvc push preprocess")
    clone.commit("remote")
    clone.run("git", "clone", "--quiet", ".", str(tmp_path / "other"))
    other = Tree(tmp_path / "other", tmp_path)
    other.type("dvc pull data/processed/train.safetensors/00001-of-00002.safetensors")
    assert [path.name for path in (other.path / paths.TRAIN).iterdir()] == NAMES[1:]
    cached = [path for path in (other.path / ".dvc/cache/files/md5").rglob("*") if path.is_file()]
    assert sum(not path.name.endswith(".dir") for path in cached) == 1
    message = other.run("python", "stages/train.py", code=2, PYTHONPATH="src")
    assert f"{paths.TRAIN / NAMES[0]}: no such file; " in message
    assert "\n" not in message.strip()
    other.type(f"dvc pull {paths.TRAIN / NAMES[0]}")
    assert sorted(path.name for path in (other.path / paths.TRAIN).iterdir()) == NAMES


def test_lost_shard_is_restored(sharded: tuple[Clone, bytes]) -> None:
    clone, _ = sharded
    shutil.copy(clone.path / paths.TRAIN / NAMES[0], clone.path / "kept")
    (clone.path / paths.TRAIN / NAMES[0]).unlink()
    clone.type("dvc repro preprocess")
    restored = (clone.path / paths.TRAIN / NAMES[0]).read_bytes()
    assert restored == (clone.path / "kept").read_bytes()
