"""`retrace doctor` in repositories of others: features, code deps, and nothing of the lab."""

import sys
from pathlib import Path

import pytest
import yaml
from pipelines import CASES, MD5, write

from lab import doctor as lab
from retrace import doctor
from retrace.doctor import features, pipeline
from retrace.doctor.findings import Finding

STAGES = {
    "stages": {
        "fit": {
            "foreach": ["a", "b"],
            "do": {
                "wdir": "code",
                "cmd": "python fit.py ${item}",
                "deps": ["fit.py"],
                "params": ["../conf.toml:", "lr"],
                "outs": ["${item}.bin"],
            },
        },
        "frozen": {"cmd": ["true", "true"], "frozen": True, "deps": ["s3://bucket/key"]},
    }
}
FILES = {
    "dvc.yaml": yaml.safe_dump(STAGES),
    "code/params.yaml": "lr: 1\n",
    "code/fit.py": "import dvclive, net",
    "code/net.py": "import mlflow",
    "raw.dvc": f"outs:\n- md5: {MD5}\n  path: raw\n",
    "pyproject.toml": "[tool.other]\n",
    "requirements.txt": "never-published==1\n",
}


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write(tmp_path, FILES))
    return tmp_path


@pytest.mark.usefixtures("stranger")
def test_features_are_listed() -> None:
    overview, *libraries = [finding.what for finding in features.seen()]
    for feature in (
        "3 stages",
        "2 of foreach or matrix",
        "2 with wdir",
        "1 with several commands",
        "1 frozen",
        "templating",
        "1 .dvc file",
        "code/params.yaml",
    ):
        assert feature in overview
    assert libraries == ["DVCLive in fit@a, fit@b", "MLflow in fit@a, fit@b"]


@pytest.mark.usefixtures("stranger")
def test_untracked_has_reasons() -> None:
    untracked = [finding.what for finding in features.untracked()]
    for start in ("frozen is frozen", "s3://bucket/key is outside", "frozen has no outs"):
        assert any(what.startswith(start) for what in untracked), start


def test_lock_of_dvc_2_is_repaired(stranger: Path) -> None:
    (stranger / "dvc.yaml").write_text("stages: {a: {cmd: echo 1 > x, outs: [x]}}")
    outs = f"    outs:\n    - path: x\n      md5: {MD5}\n"
    lock = f"schema: '2.0'\nstages:\n  a:\n    cmd: echo 1 > x\n{outs}"
    (stranger / "dvc.lock").write_text(lock)
    (finding,) = [each for each in features.untracked() if each.level == "warning"]
    assert finding.repair == "dvc cache migrate --dvc-files"
    (stranger / "dvc.lock").write_text(f"{lock}      hash: md5\n")
    assert {finding.level for finding in features.untracked()} == {"ok"}


def test_undeclared_import_is_a_warning(stranger: Path) -> None:
    assert [finding.level for finding in pipeline.declared()] == ["warning", "warning"]
    text = (stranger / "dvc.yaml").read_text()
    for deps in ("- fit.py\n      - net.py", "- fit.py\n      - ${item}.py"):
        (stranger / "dvc.yaml").write_text(text.replace("- fit.py", deps))
        assert [finding.level for finding in pipeline.declared()] == ["ok"], deps
    (stranger / "dvc.yaml").write_text(text.replace("- fit.py", "- params.yaml"))
    assert [finding.level for finding in pipeline.declared()] == ["ok"]  # code is not declared


def test_python_of_stages_lacks_packages(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = stranger / "bin/python"
    python.parent.mkdir()
    monkeypatch.setenv("PATH", str(python.parent))
    (finding,) = pipeline.interpreters()
    assert (finding.level, finding.repair) == ("problem", None)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')  # without site-packages
    python.chmod(0o755)
    (stranger / ".venv/bin").mkdir(parents=True)
    (stranger / ".venv/bin/python").symlink_to(sys.executable)
    (finding,) = pipeline.interpreters()
    assert (finding.level, finding.repair) == ("problem", ". .venv/bin/activate")
    assert f"which is {python} and lacks dvclive, mlflow" in finding.what
    (stranger / "code/fit.py").write_text("import json\ndef later(): import dvclive\n")
    assert [finding.level for finding in pipeline.interpreters()] == ["ok"]
    text = (stranger / "dvc.yaml").read_text().replace("python fit.py", "conda run python fit.py")
    (stranger / "dvc.yaml").write_text(text)
    assert list(pipeline.interpreters()) == []


@pytest.mark.usefixtures("stranger")
def test_lab_checks_nothing_of_others() -> None:
    assert [finding for check in lab.CHECKS.values() for finding in check()] == []
    lab.check_params({"lr": "any"}, [])


def of_pipeline() -> list[Finding]:
    checks = {**features.CHECKS, **pipeline.CHECKS}
    del checks["pipeline"]  # runs `dvc status`
    return [finding for check in checks.values() for finding in doctor._guarded(check())]


@pytest.mark.parametrize("name", CASES)
def test_no_feature_is_a_problem(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write(tmp_path, CASES[name].files))
    assert [each for each in of_pipeline() if "cannot be checked" in each.what] == []
