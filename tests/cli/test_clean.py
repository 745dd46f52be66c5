"""`retrace clean` lists checkpoints that can be resumed, and removes those not in use."""

import os

import numpy as np
import pytest
import safetensors.numpy

from retrace import checkpoint
from retrace.checkpoint import Checkpoints
from retrace.cli.clean import clean

pytestmark = pytest.mark.usefixtures("folder")


def save(checkpoints: Checkpoints, step: int) -> None:
    facts = f'{{"step": {step}, "training": "digits"}}'
    weights = {"weights": np.zeros(1000, np.float32)}
    checkpoints.save(step, lambda: safetensors.numpy.save(weights, {"facts": facts}))


def test_clean_lists_unusable_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    with checkpoint.locked("damaged") as damaged:
        save(damaged, 5)
        os.truncate(checkpoint.in_folder(damaged.folder)[0], 0)
    with checkpoint.locked("half") as half:
        (half.folder / ".000000000010-abc.safetensors.123").write_bytes(b"half")
    with checkpoint.locked("nothing"):
        pass
    clean(force=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["damaged", "half", "nothing", "removed:"]
    assert lines[0].endswith(", 0 bytes")
    assert lines[1].endswith(", 4 bytes")
    assert lines[-1] == "removed: 4 bytes"
    assert checkpoint.folders() == []


def test_clean_keeps_what_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    clean(force=False)
    assert capsys.readouterr().out.startswith("no checkpoints: ")
    with checkpoint.locked("a" * 32) as unused:
        save(unused, 1234)
    with checkpoint.locked("b" * 32) as used:
        save(used, 7)
        clean(force=False)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("aaaaaaaa  digits: step 1,234, saved 20")
        assert lines[1].startswith("bbbbbbbb  digits: step 7, ")
        assert lines[1].endswith(", in use")
        assert "retrace clean --force" in lines[2]
        clean(force=True)
        assert capsys.readouterr().out.splitlines()[-1].startswith("removed: 4.")
        assert (unused.folder.exists(), used.folder.exists()) == (False, True)
