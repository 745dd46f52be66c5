"""The fast path: equal to DVC's index where it answers, and silent where it is not sure."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from pipelines import CASES, rewrite, write
from repository import ROOT, Tree

from retrace.errors import DataError
from retrace.pipeline import dvc_files, dvc_index, hashing, plain
from retrace.pipeline.definition import Pipeline, Source


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


def read(root: Path) -> Pipeline | None:
    return plain.read(root, dvc_files.find(root))


@pytest.mark.parametrize("name", CASES)
def test_plain_reads(root: Path, name: str) -> None:
    """The index is held to the same values, in test_dvc_index."""
    pipeline = read(rewrite(root, CASES[name].files))
    if not CASES[name].is_plain:
        assert pipeline is None
        return
    assert pipeline
    assert pipeline == CASES[name].pipeline
    assert list(pipeline.stages) == [stage.name for stage in CASES[name].stages]


NOT_PLAIN = {
    "key": "stages: {a: {cmds: x}}",
    "section": "stages: {a: {cmd: x}}\nextra: 1",
    "no cmd": "stages: {a: {deps: [x]}}",
    "syntax": "stages: {a: {",
    "not a table": "[1]",
    "stages without a table": "stages:",
    "stage without a table": "stages: {a: }",
    "twice": "stages: {a: {cmd: x}, a: {cmd: y}}",
    "number as dep": "stages: {a: {cmd: x, deps: [3]}}",
    "number as stage": "stages: {3: {cmd: x}}",
    "1.1 bool": "stages: {a: {cmd: x, frozen: yes}}",
    "flag": "stages: {a: {cmd: x, outs: [{o: {cached: true}}]}}",
    "flag's type": "stages: {a: {cmd: x, outs: [{o: {cache: 1}}]}}",
    "out without flags": "stages: {a: {cmd: x, outs: [{o: }]}}",
    "list of plots": "stages: {a: {cmd: x, plots: [{o: [{x: a}]}]}}",
    "at": "stages: {a@b: {cmd: x}}",
    "params": "stages: {a: {cmd: x, params: [{f: 3}]}}",
    "number as key": "stages: {a: {cmd: x, params: [{f: [3]}]}}",
    "same output": "stages: {a: {cmd: x, outs: [o]}, b: {cmd: y, outs: [./o]}}",
    "output in output": "stages: {a: {cmd: x, outs: [o]}, b: {cmd: y, outs: [o/p]}}",
    "circle": "stages: {a: {cmd: x, outs: [o], deps: [p]}, b: {cmd: y, outs: [p], deps: [o]}}",
    "own output": "stages: {a: {cmd: x, outs: [o/p], deps: [o]}}",
    "part of own output": "stages: {a: {cmd: x, outs: [o], deps: [o/p]}}",
    "own params": "stages: {a: {cmd: x, outs: [params.yaml], params: [k]}}",
    "external output": "stages: {a: {cmd: x, outs: ['s3://bucket/o']}}",
    "outer output": "stages: {a: {cmd: x, outs: [../o]}}",
    "root as dep": "stages: {a: {cmd: x, deps: [.]}}",
    "no path": "stages: {a: {cmd: x, deps: ['']}}",
    "source as dep": "stages: {a: {cmd: x, deps: [data.dvc]}}",
    "dvc.yaml as dep": "stages: {a: {cmd: x, deps: [dvc.yaml]}}",
    "internal dep": "stages: {a: {cmd: x, deps: [.dvc/config]}}",
    "unknown value": "stages: {a: {cmd: '${b}'}}",
    "number alone": "stages: {a: {cmd: '${n}'}}",
    "nothing": "stages: {a: {cmd: 'x ${none}'}}",
    "list": "stages: {a: {cmd: 'x ${list}'}}",
    "index": "stages: {a: {cmd: 'x ${list[0]}'}}",
    "nested template": "stages: {a: {cmd: 'x ${${name}}'}}",
    "template as name": "stages: {'a-${name}': {cmd: x}}",
    "unknown value in desc": "stages: {a: {cmd: x, desc: '${b}'}}",
    "plot's file": "plots: [{t: {y: {a.csv: 3}}}]",
    "metric": "metrics: [3]",
    "artifact": "artifacts: {a: {type: model}}",
    "label": "artifacts: {a: {path: x, labels: [1]}}",
    "no date": "stages: {a: {cmd: x, deps: [2024-13-01]}}",
    "no number": "stages: {a: {cmd: x, deps: [-_]}}",
    "deep": "[" * 20_000,
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_plain_leaves_it_to_dvc(root: Path, name: str) -> None:
    params = "n: 1\nnone:\nlist: [1]\nname: list\n"
    rewrite(root, {"dvc.yaml": NOT_PLAIN[name], "params.yaml": params})
    assert read(root) is None


SOURCES = {
    "cmd": "cmd: x\nouts:\n- path: a\n",
    "cloud": "outs:\n- path: a\n  cloud: {r: {etag: e}}\n",
    "hash": "outs:\n- path: a\n  hash: sha256\n",
    "absolute": "outs:\n- path: /a\n",
    "wdir": "wdir: /\nouts:\n- path: a\n",
    "outside": "outs:\n- path: ../a\n",
    "numeric md5": "outs:\n- path: a\n  md5: 12345678\n",
    "no path": "outs:\n- md5: abc\n",
    "same data": "outs:\n- path: a\n- path: a\n",
}


@pytest.mark.parametrize("name", SOURCES)
def test_source_is_left_to_dvc(root: Path, name: str) -> None:
    assert read(rewrite(root, {"a.dvc": SOURCES[name]})) is None


@pytest.mark.parametrize("text", ["*.csv", "/in.csv", "raw/*", "*", "!in.csv\nin.*", "a\\ b"])
def test_ignored_path_is_left_to_dvc(root: Path, text: str) -> None:
    files = {".dvcignore": text, "dvc.yaml": "stages: {a: {cmd: x, deps: [in.csv, raw/x]}}"}
    assert read(rewrite(root, files)) is None


@pytest.mark.filterwarnings("ignore:_NoneStep")  # DVC's, of pygtrie
def test_sources_of_dvc_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are written by `dvc add`, `import` and `import-url`."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "cache"))
    other = write(tmp_path / "other", {"d/a.txt": "foo"})
    mine = write(tmp_path / "mine", {"d/a.txt": "foo"})
    repo: Any  # DVC has few type annotations
    with Repo(str(other)) as repo:
        repo.add(str(other / "d"))
        Tree(other, tmp_path / "cache").commit("data")
    monkeypatch.chdir(mine)
    with Repo(".") as repo:
        repo.add("d/a.txt")
        repo.imp(str(other), "d", out="imported")
        repo.imp_url(str(other / "d" / "a.txt"), "b é.txt")
    files = dvc_files.find(mine)
    pipeline = plain.read(mine, files)
    assert pipeline
    foo = hashing.md5(mine / "b é.txt")
    assert pipeline.sources == (
        Source("b é.txt.dvc", "b é.txt", foo),
        Source("imported.dvc", "imported", hashing.md5(mine / "imported")),
        Source("d/a.txt.dvc", "d/a.txt", foo),
    )
    assert pipeline == dvc_index.index(mine, files)


def test_own_pipeline_is_plain() -> None:
    files = dvc_files.find(ROOT)
    pipeline = plain.read(ROOT, files)
    assert pipeline
    assert list(pipeline.stages) == ["download", "preprocess", "train", "evaluate", "visualize"]


def test_plain_imports_no_dvc(root: Path) -> None:
    rewrite(root, CASES["templates"].files)
    script = (
        "import sys; from pathlib import Path\n"
        "from retrace.pipeline import loading\n"
        "print(*loading.load(Path(sys.argv[1])).stages)\n"
        "print(*[name for name in ('dvc', 'ruamel.yaml') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, root], capture_output=True, text=True, check=False
    )
    assert (ended.stdout, ended.stderr) == ("train\n\n", "")


def test_unreadable_file_is_an_error(root: Path) -> None:
    (rewrite(root, {}) / "dvc.yaml").write_bytes(b"\xff")
    files = dvc_files.find(root)
    assert plain.read(root, files) is None
    with pytest.raises(DataError, match="is not valid utf-8"):
        dvc_index.index(root, files)
