"""The pipeline of a repository: found, named and cached."""

import json
import os
from pathlib import Path

import pytest
from pipelines import CASES, rewrite, write

from retrace.errors import DataError
from retrace.pipeline import loading

VARS = {
    "dvc.yaml": """
vars: [more.yaml, "some.json:k"]
stages:
  a: {cmd: "echo ${more}"}
  b: {wdir: sub, vars: [own.yaml], cmd: "echo ${own} ${p} ${k}"}
  c: {foreach: [x], do: {wdir: sub, vars: [each.yaml], cmd: "echo ${each}"}}
""",
    "params.yaml": "p: 1\n",
    "more.yaml": "more: 1\n",
    "some.json": '{"k": 1, "l": 1}',
    "sub/own.yaml": "own: 1\n",
    "sub/each.yaml": "each: 1\n",
    "data.dvc": "outs:\n- path: data\n",
    ".dvcignore": "",
}
SEEN = ("cached", "by this test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path, VARS)


def mark(root: Path) -> None:
    """Change the cached pipeline, so that it can be told from a new one."""
    file = root / loading.CACHE
    entry = json.loads(file.read_bytes())
    entry["pipeline"]["metrics"] = SEEN
    file.write_text(json.dumps(entry))


def test_root_is_the_nearest(root: Path) -> None:
    (root / "inner" / ".dvc").mkdir(parents=True)
    (root / "inner" / "deep").mkdir()
    assert loading.root(root) == root
    assert loading.root(root / "sub") == root
    assert loading.root(root / "inner" / "deep") == root / "inner"


def test_root_is_found_through_a_link(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "link").symlink_to(root / "sub")
    monkeypatch.chdir(root / "sub")
    assert loading.root(root / "link") == loading.root(Path()) == root


def test_no_root_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".dvc").write_text("")
    with pytest.raises(DataError) as raised:
        loading.root(tmp_path)
    expected = f"{tmp_path}: is not in a DVC repository; `dvc init` makes one"
    assert str(raised.value) == expected


@pytest.mark.parametrize(
    ("stage", "folder", "name"),
    [
        ("train", ".", "train"),
        ("train", "sub", "sub/dvc.yaml:train"),
        ("../dvc.yaml:train@cnn", "sub", "train@cnn"),
        ("sub/dvc.yaml:b@x", ".", "sub/dvc.yaml:b@x"),
        ("deep/dvc.yaml:a:b", "sub", "sub/deep/dvc.yaml:a:b"),
        ("../a b/dvc.yaml:größe 1", "sub", "a b/dvc.yaml:größe 1"),
        ("dvc.yaml:train", ".", "train"),
    ],
)
def test_stage_is_named_from_the_root(root: Path, stage: str, folder: str, name: str) -> None:
    assert loading.canonical(stage, root / folder, root) == name


def test_stage_outside_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"\.\./dvc.yaml:a: started in .*, it is not a stage of"):
        loading.canonical("../dvc.yaml:a", root, root)


def test_plain_pipeline_is_not_cached(tmp_path: Path) -> None:
    root = write(tmp_path, CASES["templates"].files)
    assert loading.load(root) == CASES["templates"].pipeline
    assert not (root / loading.CACHE).exists()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.is_plain])
def test_cached_pipeline_is_equal(tmp_path: Path, name: str) -> None:
    root = rewrite(tmp_path, CASES[name].files)
    loaded = loading.load(root)
    assert loaded == CASES[name].pipeline
    assert json.loads((root / loading.CACHE).read_bytes())["pipeline"]
    cached = loading.load(root)
    assert cached == loaded
    assert list(cached.stages) == list(loaded.stages)
    mark(root)
    assert loading.load(root).metrics == SEEN


CHANGES = {
    **{name: text.replace("1", "2") for name, text in VARS.items() if "1" in text},
    "dvc.yaml": "stages: {a: {foreach: [x], do: {cmd: y}}}",
    "data.dvc": "outs:\n- path: other\n",
    ".dvcignore": "*.dvc\n",
    ".gitignore": "*.dvc\n",
    ".dvc/config": "[parsing]\n    bool = boolean_optional\n",
    ".dvc/config.local": "[parsing]\n    bool = boolean_optional\n",
    "sub/params.yaml": "q: 1\n",
    "new/dvc.yaml": "stages: {a: {cmd: y}}",
    "new/data.dvc": "outs:\n- path: other\n",
}


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_noticed(root: Path, name: str) -> None:
    loading.load(root)
    mark(root)
    assert loading.load(root).metrics == SEEN
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(CHANGES[name])
    assert loading.load(root).metrics == ()


@pytest.mark.parametrize("name", ["notes.txt", "sub/in.csv", "dvc.lock", "other.yaml"])
def test_other_file_changes_nothing(root: Path, name: str) -> None:
    loading.load(root)
    mark(root)
    (root / name).write_text("")
    assert loading.load(root).metrics == SEEN


def test_change_of_global_config_is_noticed(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("global")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(folder))
    loading.load(root)
    mark(root)
    (folder / "config").write_text("[parsing]\n    list = append\n")
    assert loading.load(root).metrics == ()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"about": 1}', "\udcff", "pipeline", "stages"]
)
def test_broken_cache_is_ignored(root: Path, text: str) -> None:
    loaded = loading.load(root)
    file = root / loading.CACHE
    if text in ("pipeline", "stages"):  # an entry of an unknown form
        entry = json.loads(file.read_bytes())
        entry["pipeline"] = [] if text == "pipeline" else {**entry["pipeline"], "stages": [1]}
        file.write_text(json.dumps(entry))
    else:
        file.write_bytes(text.encode(errors="surrogateescape"))
    assert loading.load(root) == loaded
    mark(root)
    assert loading.load(root).metrics == SEEN


def test_cache_need_not_be_writable(root: Path) -> None:
    (root / ".retrace").write_text("")
    assert list(loading.load(root).stages) == ["a", "b", "c@x"]


def test_copy_has_its_own_cache(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    loading.load(root)
    mark(root)
    copy = write(tmp_path_factory.mktemp("copy"), VARS)
    assert loading.load(copy).metrics == ()
    assert (copy / loading.CACHE).exists()


def test_newer_file_prevents_the_cache(root: Path) -> None:
    """A file that changes while DVC reads it may be newer than the pipeline."""
    os.utime(root / "more.yaml", (4e9, 4e9))
    loading.load(root)
    assert not (root / loading.CACHE).exists()
