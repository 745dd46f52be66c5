"""The pipeline as a graph: order, makers, leaves and names."""

import pytest

from retrace.errors import DataError
from retrace.pipeline.definition import (
    Out,
    Pipeline,
    Source,
    Stage,
    commands,
    qualified,
    split_name,
)


def pipeline(**stages: tuple[str, str]) -> Pipeline:
    """Return a pipeline of stages with their deps and their outputs, separated by spaces."""
    return Pipeline(
        {
            name: Stage(name, (name,), deps=tuple(deps.split()), outs=tuple(map(Out, outs.split())))
            for name, (deps, outs) in stages.items()
        }
    )


def test_order_is_topological() -> None:
    stages = pipeline(d=("c b", ""), c=("a", "c"), z=("", ""), b=("a", "b"), a=("", "a"))
    assert list(stages.stages) == ["z", "a", "c", "b", "d"]


def test_order_follows_folders() -> None:
    stages = pipeline(all=("out", ""), inner=("raw/x/y", "out/a"), raw=("", "raw/x"))
    assert list(stages.stages) == ["raw", "inner", "all"]


def test_circle_names_its_stages() -> None:
    with pytest.raises(DataError, match=r"circle: (b -> a -> b|a -> b -> a)$"):
        pipeline(a=("b", "a"), b=("a", "b"))


def test_own_output_is_no_circle() -> None:
    assert list(pipeline(a=("a", "a")).stages) == ["a"]


@pytest.mark.parametrize(
    ("path", "maker"),
    [
        ("models", "whole"),
        ("models/a", "whole"),
        ("models/a/b", "whole"),
        ("modelsx", None),
        ("reports", "first"),
        ("reports/x", "first"),
        ("reports/x/1", "first"),
        ("reports/x/2", None),
        ("reports-x", None),
        ("other", "umlaut"),
        ("s3://bucket/dir/key", "remote"),
        ("s3://bucket/di", None),
        (".", "first"),
    ],
)
def test_maker_has_the_longest_prefix(path: str, maker: str | None) -> None:
    stages = pipeline(
        first=("", "reports/x/1"),
        whole=("reports/y", "models"),
        second=("", "reports/y/1"),
        remote=("", "s3://bucket/dir"),
        umlaut=("", "other/é"),
    )
    assert stages.maker(path) == maker


def test_upstream_has_direct_makers() -> None:
    stages = pipeline(
        a=("", "x/1"), b=("x/1", "x/2"), c=("x x/1 other", "y"), d=("y/deep/file", "")
    )
    assert stages.upstream("a") == []
    assert stages.upstream("c") == ["a", "b"]
    assert stages.upstream("d") == ["c"]


def test_leaves_have_their_readers() -> None:
    stages = pipeline(a=("raw code.py", "x"), b=("x/y code.py", ""))
    assert stages.leaves == {"raw": ["a"], "code.py": ["a", "b"]}


@pytest.mark.parametrize("dep", ["data", "data/", "."])
def test_leaves_of_a_folder_with_outputs(dep: str) -> None:
    stages = {
        "clean": Stage("clean", ("x",), deps=("data/raw",), outs=(Out("data/clean"),)),
        "fit": Stage("fit", ("x",), deps=(dep, "data/clean/part")),
    }
    sources = (Source("data/raw.dvc", "data/raw"), Source("b.dvc", "database"))
    leaves = Pipeline(stages, sources).leaves
    assert leaves.pop("data/raw") == ["clean", "fit"]
    assert leaves == ({"database": ["fit"]} if dep == "." else {})


def test_files_are_listed_once() -> None:
    stage = Stage("a", ("x",), params={"p.yaml": ("k",)}, outs=(Out("m.json", "metric"), Out("o")))
    both = Pipeline({"a": stage}, metrics=("top.json", "m.json"))
    assert both.metrics_files == ("m.json", "top.json")
    assert both.params_files == ("p.yaml",)


@pytest.mark.parametrize(
    ("file", "name", "full"),
    [
        ("dvc.yaml", "train@cnn", "train@cnn"),
        ("sub/dvc.yaml", "b@x", "sub/dvc.yaml:b@x"),
        ("../dvc.yaml", "a:b", "../dvc.yaml:a:b"),
        ("a b/é/dvc.yaml", "größe 1", "a b/é/dvc.yaml:größe 1"),
        ("dvc.yaml", "a:b\nc", "a:b\nc"),
    ],
)
def test_name_is_split_as_it_is_joined(file: str, name: str, full: str) -> None:
    assert qualified(file, name) == full
    assert split_name(full) == (file, name)


@pytest.mark.parametrize(
    ("cmd", "expected"),
    [("a\nb\n", ("a", "b")), (["a\nb", "c"], ("a\nb", "c")), ("", ()), ("a; b", ("a; b",))],
)
def test_commands_are_lines_or_entries(cmd: str | list[str], expected: tuple[str, ...]) -> None:
    assert commands(cmd) == expected
