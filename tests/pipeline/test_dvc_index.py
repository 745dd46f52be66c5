"""DVC's own index: each feature of dvc.yaml, invalid files, and no trace of the reading."""

import os
import subprocess
import sys
from pathlib import Path

import dvc.api
import pytest
from pipelines import CASES, rewrite, write

from retrace.errors import DataError
from retrace.pipeline import dvc_files, dvc_index
from retrace.pipeline.definition import Pipeline, Stage


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


def index(root: Path) -> Pipeline:
    return dvc_index.index(root, dvc_files.find(root))


def test_api_has_no_index() -> None:
    """As soon as it has, dvc_index should use that."""
    wanted = ("index", "stages", "pipeline", "dag")
    assert [name for name in dvc.api.__all__ if any(word in name for word in wanted)] == []


@pytest.mark.parametrize("name", CASES)
def test_index_reads(root: Path, name: str) -> None:
    read = index(rewrite(root, CASES[name].files))
    assert read == CASES[name].pipeline
    assert list(read.stages) == [stage.name for stage in CASES[name].stages]


def test_index_is_relative_to_a_subdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc init --subdir`: git's root is above DVC's. The working directory is elsewhere."""
    root = write(tmp_path, {"dvc.yaml": "stages: {no: {cmd: x}}"}) / "project"
    (root / ".dvc").mkdir(parents=True)
    (root / "inner").mkdir()
    (root / "inner" / "dvc.yaml").write_text("stages: {a: {cmd: x, deps: [../in.csv]}}")
    monkeypatch.chdir(root / "inner")
    name = "inner/dvc.yaml:a"
    assert index(root).stages == {name: Stage(name, ("x",), folder="inner", deps=("in.csv",))}


def test_index_needs_no_git(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: x}}")
    assert index(tmp_path).stages == {"a": Stage("a", ("x",))}


def test_index_reads_composed_params(root: Path) -> None:
    """With Hydra, `dvc exp run` writes the composed params to params.yaml."""
    rewrite(
        root,
        {
            ".dvc/config": "[hydra]\n    enabled = True\n",
            "conf/config.yaml": "defaults: [model: cnn]\n",
            "conf/model/cnn.yaml": "name: composed\n",
            "params.yaml": "model: {name: cnn}\n",
            "dvc.yaml": "stages: {a: {foreach: ['${model.name}'], do: {cmd: '${item}'}}}",
        },
    )
    assert list(index(root).stages) == ["a@cnn"]


INVALID = {
    "key": ("stages: {a: {cmds: x}}", r"'.*dvc.yaml' validation failed.*: extra keys .*cmds"),
    "syntax": ("stages: {a: {", r"unable to read: '.*dvc.yaml', .* corrupted: did not find"),
    "twice": ("stages: {a: {cmd: x}, a: {cmd: y}}", r'found duplicate key "a"'),
    "value": ("stages: {a: {cmd: '${x}'}}", r"parse 'stages.a.cmd' in '.*dvc.yaml': .* 'x'"),
    "vars": ("vars: [no.yaml]\nstages: {a: {cmd: x}}", r"failed to parse 'vars' .* not exist"),
    "output": ("stages: {a: {cmd: x, outs: [o]}, b: {cmd: y, outs: [o]}}", r"output 'o' is spec"),
    "within": ("stages: {a: {cmd: x, outs: [o]}, b: {cmd: y, outs: [o/p]}}", r"overlap and are"),
    "circle": ("stages: {a: {cmd: x, outs: [o], deps: [o]}}", r"both a dependency and an output"),
    "name": ("stages: {a@b: {cmd: x}}", r"Stage 'a@b' not found"),
    "params": ("stages: {a: {cmd: x, params: [{f: 3}]}}", r"Expected list .* 'f', got 'int'"),
    "dep": ("stages: {a: {cmd: x, deps: ['']}}", r"AssertionError"),
    "date": ("vars: [{d: 2024-01-01}]\nstages: {a: {cmd: x}}", r"value of type 'date'"),
    "depth": ("[" * 20_000, r"more than 10,000 brackets"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_file_is_one_line(root: Path, name: str) -> None:
    text, message = INVALID[name]
    rewrite(root, {"dvc.yaml": text})
    with pytest.raises(DataError, match=message) as raised:
        index(root)
    assert "\n" not in str(raised.value)


IMPORT = """
frozen: true
deps:
- path: data
  repo: {url: "https://example.invalid/repository.git", rev_lock: "1234567"}
outs:
- path: data
"""


def test_index_leaves_no_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """DVC would add .dvc/tmp and lines of .dvc/.gitignore, and warn about `item`."""
    text = "vars: [{item: 1}]\nstages: {a: {foreach: [x], do: {cmd: '${item}', outs: [o]}}}"
    write(tmp_path / "root", {"dvc.yaml": text, "data.dvc": IMPORT})
    (tmp_path / "root" / ".dvc" / ".gitignore").unlink()
    site = tmp_path / "site"
    script = (
        "import sys; from pathlib import Path\n"
        "from retrace.pipeline import dvc_files, dvc_index\n"
        "root = Path(sys.argv[1]); print(*dvc_index.index(root, dvc_files.find(root)).stages)"
    )
    before = _tree(tmp_path)
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "root"],
        env=os.environ | {"DVC_SITE_CACHE_DIR": str(site)},
        check=True,
    )
    assert _tree(tmp_path) == before
    assert capfd.readouterr() == ("a@x\n", "")


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
