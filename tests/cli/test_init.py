"""`retrace init`: what it finds, and what it writes."""

import tomllib
from pathlib import Path

import pytest
from pipelines import write
from repository import Tree

from retrace import settings
from retrace.cli import init
from retrace.errors import DataError, ParamsError
from retrace.pipeline import inventory
from retrace.pipeline.workspace import Workspace

FILES = {
    "dvc.yaml": """
stages:
  split: {cmd: x, deps: ["s3://bucket/raw.csv"], params: [seed], outs: [part.csv]}
  fit:
    cmd: x
    deps: [part.csv]
    params: [lr, conf.toml: ]
    outs: [model.bin]
    metrics: [metrics.json: {cache: false}, broken.json: {cache: false}]
    plots: [predictions.csv: {cache: false}]
  report: {cmd: x, deps: [model.bin], frozen: true}
artifacts: {net: {path: model.bin, type: model}}
""",
    "metrics.json": '{"fit_s": 3, "train": {"rmse": 1}, "test": {"rmse": 2}}',
    "broken.json": "{",
    "predictions.csv": "y_true,y_pred\n1,1\n",
    ".gitignore": "/.retrace\n*.pyc",
}
# That of DVC 2 has no `hash: md5`.
LOCK = """
schema: '2.0'
stages:
  split: {cmd: x, outs: [{path: part.csv, md5: acbd18db4cc2f85cedef654fccc4a4d8}]}
  fit:
    cmd: x
    outs: [{path: metrics.json, md5: 5e31dff6e8ec04fa3e12d18d06ecf1ea, hash: md5}]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path, FILES)


def contents(root: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in root.iterdir() if path.is_file()}


def test_inventory_lists_each_kind(root: Path) -> None:
    assert inventory.take(Workspace(root)).kinds == {
        "stages": ["split", "fit", "report"],
        "params": ["all of conf.toml", "lr", "seed"],
        "data": [],
        "metrics": ["metrics.json", "broken.json"],  # no stage ran: they may be of another commit
        "plots": ["predictions.csv"],
        "models": ["model.bin"],
        "predictions": ["predictions.csv"],
    }


def test_inventory_says_what_is_not_tracked(root: Path) -> None:
    (root / "dvc.lock").write_text(LOCK)
    untracked = inventory.take(Workspace(root)).untracked
    starts = [(what, why.split(":")[0]) for what, why in untracked]
    assert starts == [
        ("s3://bucket/raw.csv", "is outside the repository (split)"),
        ("report", "has no outs"),
        ("report", "is frozen"),
        ("broken.json", "cannot be read"),
        ("report", "is not in dvc.lock"),
        ("dvc.lock", "has hashes of DVC 2 (split)"),
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train_accuracy", "val_accuracy", "test_accuracy"], "test_accuracy"),
        (["train.rmse", "val.rmse"], "val.rmse"),
        (["n_rows", "r2"], "r2"),
        (["train_loss", "auc"], "auc"),
        (["train_loss"], "train_loss"),
        (["fit_s", "n"], None),
        ([], None),
    ],
)
def test_primary_is_the_best_measured(names: list[str], expected: str | None) -> None:
    assert inventory.primary(names) == expected


def test_nothing_changes_without_write(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(root)
    init.init(root)
    assert contents(root) == before
    printed = capsys.readouterr().out
    assert "would be added to retrace.toml" in printed
    assert "`retrace init --write`" in printed


def test_write_adds_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    init.init(root / ".dvc", write=True)
    assert settings.load(root) == settings.Settings(root.name)
    assert "# metrics = { primary" in (root / "retrace.toml").read_text()
    assert (root / ".gitignore").read_text() == "/.retrace\n*.pyc\nmlflow.db*\nmlruns/\n"
    before = contents(root)
    capsys.readouterr()
    init.init(root, write=True)
    assert contents(root) == before
    assert "nothing to write" in capsys.readouterr().out


def test_primary_is_that_of_the_results(root: Path) -> None:
    (root / "dvc.yaml").write_text("stages: {}\nmetrics: [metrics.json]\n")
    with pytest.raises(DataError, match="no dvc.yaml with stages"):
        init.init(root)
    (root / "dvc.yaml").write_text("stages: {a: {cmd: x}}\nmetrics: [metrics.json]\n")
    init.init(root, write=True)
    assert settings.load(root).metrics == settings.Metrics("test.rmse")


@pytest.mark.parametrize("before", ["[project]\nname = 'a'", "[tool.other]\nx = 1\n\n\n", ""])
def test_pyproject_is_appended_to(root: Path, before: str) -> None:
    (root / "pyproject.toml").write_text(before)
    init.init(root, write=True)
    text = (root / "pyproject.toml").read_text()
    assert text.startswith(before.rstrip())
    assert tomllib.loads(text)["tool"]["retrace"] == {"experiment": root.name}
    assert not (root / "retrace.toml").exists()


def test_settings_that_exist_stay(root: Path) -> None:
    (root / "retrace.toml").write_text("experiment = 'mine'\n")
    init.init(root, write=True)
    assert (root / "retrace.toml").read_text() == "experiment = 'mine'\n"
    (root / "retrace.toml").write_text("experimnt = 'mine'\n")
    with pytest.raises(ParamsError, match="experimnt is unknown"):
        init.init(root)


@pytest.mark.parametrize("text", ["[tool]\nretrace.a", "tool = {}\n"])
def test_pyproject_that_cannot_take_it_stays(root: Path, text: str) -> None:
    (root / "pyproject.toml").write_text(text)
    before = contents(root)
    with pytest.raises(ParamsError, match=r"pyproject.toml: (not TOML|nothing can be added)"):
        init.init(root, write=True)
    assert contents(root) == before


def test_outside_a_repository_is_one_line(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tree = Tree(tmp_path, tmp_path_factory.mktemp("cache"))
    printed = tree.type("retrace init", code=2)
    assert printed == f"{tmp_path}: is not in a DVC repository; `dvc init` makes one\n"
    write(tmp_path, FILES)
    assert "added to .gitignore" in tree.type("retrace init --write")
