"""What a user adds to the lab's pipeline: stages, parameters and code of their own."""

import json

import pytest
from repository import Clone

pytestmark = pytest.mark.long

SIZE = """\
import json
from pathlib import Path

import yaml
from helper import size

unit = yaml.safe_load(Path("own.yaml").read_text())["unit"]
Path("own/size.json").write_text(json.dumps({"size": size("models/model.safetensors") / unit}))
"""
FILES = {
    "own/size.py": SIZE,
    "own/helper.py": "import os\n\n\ndef size(path):\n    return os.path.getsize(path)\n",
    "own.yaml": "unit: 1000\n",
    "below/dvc.yaml": "stages: {copy: {cmd: cp ../own/size.json c, deps: [../own/size.json],"
    " outs: [c]}}\n",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return a clone with a stage, a file of parameters, code and a dvc.yaml of the user's own."""
    path = tmp_path_factory.mktemp("own") / "digits"
    path.mkdir()
    edits = {"dataset: mnist": "dataset: digits", "epochs: 5": "epochs: 1"}
    clone = Clone(path, tmp_path_factory.mktemp("cache"), edits)
    for name, text in FILES.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text)
    clone.type(
        "dvc stage add --name size --deps own/size.py --deps models/model.safetensors "
        "--params own.yaml:unit --metrics-no-cache own/size.json python own/size.py"
    )
    clone.type("retrace dvc repro")
    clone.type("retrace dvc repro --all-pipelines")
    clone.commit("own")
    clone.type("retrace sync")
    return clone


def findings(clone: Clone) -> dict[str, str]:
    text = clone.run("bash", "-c", "retrace doctor --json || true")
    listed = json.loads(text[text.index("{") :])["findings"]
    return {each["what"]: each["repair"] for each in listed if each["level"] != "ok"}


def test_own_metric_is_on_the_leaderboard(clone: Clone) -> None:
    text = clone.type("retrace leaderboard --metric size --json")
    assert json.loads(text[text.index("{") :])["rows"]


def test_own_stage_can_be_traced(clone: Clone) -> None:
    assert "unit=1000" in clone.type("retrace trace own/size.json")
    assert "copy" in clone.type("retrace trace below/c")


def test_doctor_names_the_missing_dep(clone: Clone) -> None:
    wrong = findings(clone)
    assert [what for what in wrong if "imports own/helper.py" in what]
    clone.type("sed -i 's|    - own/size.py|&\\n    - own/helper.py|' dvc.yaml")
    assert not [what for what in findings(clone) if "imports own/helper.py" in what]
    clone.run("python", "-m", "lab.doctor.code_deps", PYTHONPATH="src")  # changes the order only
    assert not [what for what in findings(clone) if "imports own/helper.py" in what]


def test_own_key_is_of_a_stage_that_reads_it(clone: Clone) -> None:
    with (clone.path / "params.yaml").open("a") as file:
        file.write("mine: 1\n")
    download = "dvc repro --single-item --force download"
    assert "mine is not a key" in clone.run("bash", "-c", download, code=255)
    clone.type("dvc stage add --name own --params mine true")
    clone.type(download)
