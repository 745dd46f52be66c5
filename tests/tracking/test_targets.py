"""Each form of targets that DVC accepts: the stages that run below `retrace dvc` are tracked."""

import re
from pathlib import Path

import pytest
from pipelines import write
from repository import Tree

from retrace import event_log

STAGES = """\
stages:
  raw: {cmd: "cp params.yaml raw", deps: [params.yaml], outs: [raw]}
  train:
    foreach: [a, b]
    do: {cmd: "cp raw model-${item}", deps: [raw], outs: ["model-${item}"]}
  trial: {cmd: "cp raw trial", deps: [raw], outs: [trial]}
  last: {cmd: "cat model-a > last", deps: [model-a, model-b], outs: [last]}
"""
SUB = """\
stages:
  own: {cmd: "cp ../raw own", deps: [../raw], outs: [own]}
  after: {cmd: "cp own after", deps: [own], outs: [after]}
"""
ALL = {"raw", "train@a", "train@b", "trial", "last"}
SUBS = {"sub/dvc.yaml:own", "sub/dvc.yaml:after"}
RUNNING = re.compile(r"Running stage '(.+?)'")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    files = {"dvc.yaml": STAGES, "sub/dvc.yaml": SUB, "params.yaml": "a: 1\n"}
    tree = Tree(write(tmp_path_factory.mktemp("tree"), files), tmp_path_factory.mktemp("cache"))
    tree.commit("start")
    tree.type("dvc repro --quiet --all-pipelines")
    return tree


def tracked(tree: Tree) -> list[tuple[Path, str]]:
    """Return the event logs of stages, uploaded or not, with the name of the stage."""
    paths = (tree.path / ".retrace/journal").rglob("*.jsonl")
    return [(path, event_log.read(path)[0]["stage"]) for path in paths]


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "stages"),
    [
        ("", ALL),
        ("train@a", {"raw", "train@a"}),
        ("dvc.yaml:trial", {"raw", "trial"}),
        ("sub/dvc.yaml:own", {"raw", "sub/dvc.yaml:own"}),
        ("sub/dvc.yaml", {"raw", *SUBS}),
        ("--recursive sub", {"raw", *SUBS}),
        ("--glob 'tr*'", {"raw", "train@a", "train@b", "trial"}),
        ("--single-item trial last", {"trial", "last"}),
        ("--downstream train@a", {"train@a", "last"}),
        ("--pipeline trial", {*ALL, *SUBS}),
        ("--all-pipelines", {*ALL, *SUBS}),
    ],
)
def test_stages_of_targets_are_tracked(tree: Tree, words: str, stages: set[str]) -> None:
    before = {path.name for path, _ in tracked(tree)}
    printed = tree.type(f"retrace dvc repro --force {words}")
    new = [stage for path, stage in tracked(tree) if path.name not in before]
    assert sorted(new) == sorted(RUNNING.findall(printed)) == sorted(stages)


@pytest.mark.long
def test_stage_of_the_working_directory_is_tracked(tree: Tree) -> None:
    before = {path.name for path, _ in tracked(tree)}
    tree.type("cd sub && retrace dvc repro --force --single-item own")
    assert [stage for path, stage in tracked(tree) if path.name not in before] == [
        "sub/dvc.yaml:own"
    ]
