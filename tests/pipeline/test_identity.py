"""The identity of an experiment and the files of its stages."""

from pathlib import Path

import pytest

from lab import paths
from retrace.pipeline import graph, identity, params_file


@pytest.mark.usefixtures("folder")
def test_key_depends_on_params_and_code(
    values: params_file.Values,
) -> None:
    Path("stages").mkdir()
    Path("stages/train.py").write_text("1")
    key = identity.key(values)
    Path("README.md").write_text("new")
    assert identity.key(dict(reversed(values.items()))) == key
    assert identity.key(values | {"lr": 0.1}) != key
    Path("stages/train.py").write_text("2")
    assert identity.key(values) != key


@pytest.mark.usefixtures("folder")
def test_key_depends_on_own_images_if_used(
    values: params_file.Values,
) -> None:
    paths.IMAGES.mkdir(parents=True)
    own = values | {"dataset": "image_folder"}
    before = identity.key(values), identity.key(own)
    (paths.IMAGES / "cat.png").write_bytes(b"miaow")
    assert identity.key(values) == before[0]
    assert identity.key(own) != before[1]


@pytest.mark.usefixtures("folder")
def test_stage_files_have_choices_filled_in(
    values: params_file.Values,
) -> None:
    train = graph.stages(values | {"model": "softmax"})["train"]
    assert "src/lab/models/networks/softmax.py" in train.deps
    outs = (
        paths.WEIGHTS,
        paths.MODEL_CONFIG,
        paths.HISTORY,
        paths.STEPS,
        paths.SUMMARY,
        paths.BATCH,
    )
    assert train.outs == tuple(str(path) for path in outs)
