"""dvc.lock as DVC writes it, of all its versions, and after a merge with conflicts."""

from pathlib import Path

import pytest
from pipelines import write
from repository import Tree

from retrace.errors import DataError
from retrace.pipeline import dvc_files, dvc_index, hashing, loading, lockfile
from retrace.pipeline.definition import Out, Pipeline, Stage
from retrace.pipeline.lockfile import Hash, Locked

FILES = {
    "params.yaml": "lr: 0.1\nn: 2\n",
    "in.csv": "1\n",
    "folder/a b.txt": "é",
    "sub/params.yaml": "lr: 0.2\n",
    "beside/dvc.yaml": """
stages:
  train: {cmd: cp ../in.csv out.csv, deps: [../in.csv], outs: [out.csv]}
""",
    "dvc.yaml": """
stages:
  wdir:
    wdir: sub
    cmd: [cp ../in.csv o.csv, mkdir -p ../made, cp o.csv ../made/x]
    deps: [../in.csv, ../folder, OUTSIDE, ../../beside.csv]
    params: [lr, ../params.yaml: [n]]
    outs: [o.csv, ../made]
    metrics: [m.json: {cache: false}]
  loop:
    foreach: [1, 2]
    do:
      cmd: |
        cp beside/out.csv ${item}.csv
        echo ${item}
      deps: [beside/out.csv]
      outs: [{"${item}.csv": {cache: false}}]
""",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a pipeline with a `wdir`, two dvc.yaml, `foreach` and deps outside."""
    parent = tmp_path_factory.mktemp("parent")
    (parent / "outside.csv").write_text("3\n")
    (parent / "beside.csv").write_text("4\n")
    text = FILES["dvc.yaml"].replace("OUTSIDE", str(parent / "outside.csv"))
    text = text.replace("made/x]", "made/x, 'echo 1 > m.json']")
    root = write(parent / "root", {**FILES, "dvc.yaml": text})
    Tree(root, tmp_path_factory.mktemp("cache")).run("dvc", "repro", "--quiet", "--all-pipelines")
    return root


@pytest.fixture(scope="module")
def pipeline(ran: Path) -> Pipeline:
    return dvc_index.index(ran, dvc_files.find(ran))


def test_stages_have_canonical_names(ran: Path, pipeline: Pipeline) -> None:
    locked = lockfile.read(ran, pipeline)
    assert sorted(locked) == ["beside/dvc.yaml:train", "loop@1", "loop@2", "wdir"]
    assert list(locked) == list(pipeline.stages)


def test_lock_has_what_the_index_has(ran: Path, pipeline: Pipeline) -> None:
    """Paths in dvc.lock are relative to `wdir`, which only dvc.yaml has."""
    for name, stage in lockfile.read(ran, pipeline).items():
        declared = pipeline.stages[name]
        assert stage.commands == declared.commands
        assert set(stage.deps) == set(declared.deps)
        assert set(stage.outs) == {out.path for out in declared.outs}
        assert {file: tuple(values) for file, values in stage.params.items()} == declared.params


def test_hashes_are_those_of_the_files(ran: Path, pipeline: Pipeline) -> None:
    stage = lockfile.read(ran, pipeline)["wdir"]
    assert set(stage.deps) == {
        *("in.csv", "folder", str(ran.parent / "outside.csv"), "../beside.csv")
    }
    for path, value in {**stage.deps, **stage.outs}.items():
        size = sum(file.stat().st_size for file in [ran / path, *(ran / path).rglob("*")])
        size -= (ran / path).stat().st_size if (ran / path).is_dir() else 0
        assert value == Hash("md5", hashing.md5(ran / path), size)
    assert stage.params == {"sub/params.yaml": {"lr": 0.2}, "params.yaml": {"n": 2}}
    assert stage.schema == "2.0"


def test_running_stage_has_canonical_name(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """DVC_STAGE as a stage sees it, from three working directories of DVC."""
    command = 'echo "$DVC_STAGE" >> $DVC_ROOT/names'
    text = f"stages: {{b: {{foreach: [x], do: {{cmd: '{command}'}}}}}}"
    root = write(tmp_path, {"dvc.yaml": text, "sub/dvc.yaml": text, "other/keep": ""})
    cache = tmp_path_factory.mktemp("cache")
    names = []
    for folder in (root, root / "sub", root / "other"):
        Tree(folder, cache).run("dvc", "repro", "--quiet", "--force", "--all-pipelines")
        printed = sorted((root / "names").read_text().split())
        names += [(name, loading.canonical(name, folder, root)) for name in printed]
        (root / "names").unlink()
    assert names == [
        ("b@x", "b@x"),
        ("sub/dvc.yaml:b@x", "sub/dvc.yaml:b@x"),
        ("../dvc.yaml:b@x", "b@x"),
        ("b@x", "sub/dvc.yaml:b@x"),
        ("../dvc.yaml:b@x", "b@x"),
        ("../sub/dvc.yaml:b@x", "sub/dvc.yaml:b@x"),
    ]


MD5 = "acbd18db4cc2f85cedef654fccc4a4d8"
STAGE = Stage("train", ("x",), deps=("a", "d"), outs=(Out("o"),))


def parse(text: str) -> dict[str, Locked]:
    return lockfile.parse(text.encode(), Path("dvc.lock"), "dvc.yaml", Pipeline({"train": STAGE}))


def test_lock_of_dvc_2_has_other_hashes() -> None:
    """Before DVC 3, text files were hashed with other line ends."""
    text = f"""
schema: '2.0'
stages:
  train:
    cmd: x
    deps:
    - path: a
      md5: {MD5}
      size: 3
    - path: d
      md5: {MD5}.dir
      size: 7
      nfiles: 2
    - path: s3://bucket/key
      etag: ABC-2
    - path: hdfs://host/file
      checksum: "0123"
    outs:
    - path: o
"""
    assert parse(text)["train"] == Locked(
        commands=("x",),
        deps={
            "a": Hash("md5-dos2unix", MD5, 3),
            "d": Hash("md5-dos2unix", f"{MD5}.dir", 7),
            "s3://bucket/key": Hash("etag", "ABC-2"),
            "hdfs://host/file": Hash("checksum", "0123"),
        },
        outs={"o": None},
        params={},
        schema="2.0",
    )


def test_lock_of_dvc_1_has_no_schema() -> None:
    locked = parse(f"train:\n  cmd: x\n  deps:\n  - path: a\n    md5: {MD5}\n")["train"]
    assert locked.schema == "1.0"
    assert locked.deps == {"a": Hash("md5-dos2unix", MD5)}


def test_listed_folder_has_dvcs_hash(tmp_path: Path) -> None:
    """A remote with versions of its own lists the files, and no hash of the folder."""
    files = f"""
    - path: o
      hash: md5
      files:
      - relpath: b/c.csv
        md5: {MD5}
        size: 3
      - relpath: a.csv
        md5: {MD5}
        size: 4
"""
    locked = parse(f"schema: '2.0'\nstages:\n  train:\n    cmd: x\n    outs:{files}")
    root = write(tmp_path, {"o.dvc": f"outs:{files}"})
    (source,) = dvc_index.index(root, dvc_files.find(root)).sources
    assert source.md5
    assert locked["train"].outs == {"o": Hash("md5", source.md5, 7)}


def test_dataset_has_no_hash() -> None:
    entry = "{path: 'ds://birds', dataset: {name: birds, type: url, lock: {files: []}}}"
    locked = parse(f"schema: '2.0'\nstages: {{train: {{cmd: x, deps: [{entry}]}}}}")
    assert locked["train"].deps == {"ds://birds": None}


@pytest.mark.parametrize("text", ["", "schema: '2.0'", "schema: '2.0'\nstages: {}", "schema: 2.0"])
def test_lock_may_have_no_stages(text: str) -> None:
    assert parse(text) == {}


def test_removed_stage_is_left_out() -> None:
    """Its `wdir`, and so its paths, are unknown."""
    assert parse("schema: '2.0'\nstages: {gone: {cmd: x, deps: [{path: a}]}}") == {}


@pytest.mark.parametrize(
    "text",
    [
        "<<<<<<< HEAD\nschema: '2.0'\n=======\nschema: '2.0'\n>>>>>>> other\n",
        "schema: '3.0'\nstages: {}",
        "schema: '2.0'\nstages: [1]",
        "schema: '2.0'\nstages: {train: }",
        "schema: '2.0'\nstages: {train: {deps: []}}",
        "schema: '2.0'\nstages: {train: {cmd: x, deps: [{md5: abc}]}}",
        "schema: '2.0'\nstages: {train: {cmd: x, params: [1]}}",
        "[1]",
        "[" * 20_000,
    ],
)
def test_invalid_lock_is_one_line(text: str) -> None:
    with pytest.raises(
        DataError, match=r"^dvc.lock: is not valid: .*`git diff dvc.lock`"
    ) as raised:
        parse(text)
    assert "\n" not in str(raised.value)


def test_missing_lock_has_no_stages(tmp_path: Path) -> None:
    assert lockfile.read(tmp_path, Pipeline({"train": STAGE})) == {}


def test_conflict_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "dvc.lock").write_text("<<<<<<< HEAD\n")
    stage = Stage("sub/dvc.yaml:a", ("x",), folder="sub")
    with pytest.raises(DataError, match=rf"^{tmp_path}/sub/dvc.lock: is not valid"):
        lockfile.read(tmp_path, Pipeline({stage.name: stage}))
