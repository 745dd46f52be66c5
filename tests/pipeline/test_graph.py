"""dvc.yaml as it is read: paths with parameters, and files that are not valid."""

from pathlib import Path

import pytest

from retrace.errors import DataError
from retrace.pipeline import graph


@pytest.mark.parametrize("level", ["[", "- ", "{a: "])
def test_deep_yaml_is_refused(tmp_path: Path, level: str) -> None:
    """Its parser, libyaml, would end the process."""
    (tmp_path / "dvc.yaml").write_text(level * 200_000, encoding="utf-8")
    with pytest.raises(DataError, match=r"dvc.yaml: .*more than 10,000 brackets"):
        graph.declared(tmp_path)


def test_path_has_the_value_as_text(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(
        "stages: {train: {deps: ['a/${model.name}.py'], outs: [{'b${n}': {cache: false}}]}}"
    )
    stages = graph.stages({"model": {"name": "x'], outs: [y"}, "n": 2}, tmp_path)
    assert stages == {"train": graph.Stage(deps=("a/x'], outs: [y.py",), outs=("b2",), params=())}


def test_path_without_a_value_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {train: {deps: ['${mode}.py']}}")
    with pytest.raises(DataError, match=r"dvc.yaml: .*'mode'; `git diff .*`"):
        graph.stages({"model": "cnn"}, tmp_path)
