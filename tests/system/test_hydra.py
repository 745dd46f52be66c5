"""Parameters that Hydra composes: DVC writes params.yaml from conf/ before the stages run."""

from pathlib import Path

import pytest
from stranger import Project, Store

STAGES = {
    "fit": {
        "cmd": "cp params.yaml read.yaml",
        "params": ["lr", "net.width"],
        "outs": ["read.yaml"],
    }
}
FILES = {
    "conf/config.yaml": "defaults: [net: small, _self_]\nlr: 0.1\n",
    "conf/net/small.yaml": "width: 8\n",
    "conf/net/large.yaml": "width: 64\n",
    "params.yaml": "net: {width: 8}\nlr: 0.1\n",
}
pytestmark = pytest.mark.long


def test_composed_params_are_logged(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> None:
    folder = tmp_path_factory.mktemp("hydra")
    project = Project(folder, tmp_path_factory.mktemp("cache"), empty_store, STAGES, FILES)
    project.type("dvc config hydra.enabled True")
    project.commit("compose the parameters")
    project.type("retrace dvc exp run --name base")
    project.type("retrace dvc exp run --name wide -S net=large -S lr=0.2")
    project.type("dvc exp run --queue --name queued -S net=large && retrace dvc queue start")
    project.wait_for_experiment("queued")
    project.wait_for_uploads()
    store = Store(folder)
    params = {name: store.parent(name).data.params for name in ("base", "wide", "queued")}
    assert params == {
        "base": {"lr": "0.1", "net.width": "8"},
        "wide": {"lr": "0.2", "net.width": "64"},
        "queued": {"lr": "0.1", "net.width": "64"},
    }
