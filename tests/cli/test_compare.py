"""Experiments side by side, whatever they are called by: the workspace, git, DVC or MLflow."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run
from repository import Clone

from lab import paths
from retrace.cli import compare
from retrace.errors import RetraceError
from retrace.pipeline import git, graph

SMALL = {
    "dataset: mnist": "dataset: digits",
    "epochs: 5": "epochs: 2",
    "threads: 2": "threads: 1",
    "    samples: 500": "    samples: 100",
}
WHO = "-c user.name=test -c user.email=test@localhost"

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("compare")]


class Made:
    """A clone in which the pipeline has run on the digits, as the commit tagged `base` has it, and, as DVC's experiment
    `faster`, with another learning rate.
    """

    def __init__(self, above: Path, database: Path) -> None:
        (above / "clone").mkdir()
        self.clone = Clone(above / "clone", above / "cache", SMALL)
        shutil.copy(database, self.clone.path / "mlflow.db")
        self.clone.type("rm dvc.lock && dvc repro evaluate")
        self.clone.commit("digits")
        self.clone.type("git tag base")
        self.clone.type(
            "dvc exp run --name faster -S lr=0.03 evaluate && git restore . && dvc checkout train evaluate"
        )
        self.client = mlflow.MlflowClient(f"sqlite:///{self.clone.path / 'mlflow.db'}")

    def run(self, name: str, stage: str = "") -> Run:
        """The run of an experiment in MLflow, or of its `stage`."""
        ids = [each.experiment_id for each in self.client.search_experiments()]
        (parent,) = self.client.search_runs(ids, f"attributes.run_name = '{name}'")
        return self.client.get_run(parent.data.tags[f"retrace.run.{stage}"]) if stage else parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Made:
    return Made(tmp_path_factory.mktemp("compare"), empty_store)


@pytest.fixture
def made(built: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    """The clone, as the working directory."""
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_", "RETRACE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", built.clone.env["DVC_SITE_CACHE_DIR"])
    monkeypatch.chdir(built.clone.path)
    return built


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """What is printed as JSON of the experiments with these names."""

    def say(*names: str) -> dict[str, Any]:
        capsys.readouterr()
        compare.compare(names, None, as_json=True)
        return json.loads(capsys.readouterr().out)

    return say


def refused(*names: str) -> str:
    with pytest.raises(RetraceError) as error:
        compare.compare(names, None, as_json=False)
    assert "\n" not in str(error.value)
    return str(error.value)


@contextmanager
def forgotten(name: str) -> Iterator[None]:
    """DVC has no experiment of this name."""
    (ref,) = [ref for ref in git.experiments() if ref.name == name]
    path = f"refs/exps/{ref.baseline[:2]}/{ref.baseline[2:]}/{name}"
    subprocess.run(["git", "update-ref", "-d", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["git", "update-ref", path, ref.rev], check=True)


@contextmanager
def without(*folders: str) -> Iterator[None]:
    """These folders of the clone are not there."""
    for folder in folders:
        Path(folder).rename(f"{folder}.away")
    try:
        yield
    finally:
        for folder in folders:
            Path(f"{folder}.away").rename(folder)


def right(rev: str) -> list[bool]:
    """Which test samples an experiment tells right, as DVC has it."""
    with git.export(rev) as folder:
        md5 = graph.locked(folder)["evaluate"].outs[str(paths.CONFUSION)]
    with Path(f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}").open(newline="") as file:
        return [row["actual"] == row["predicted"] for row in csv.DictReader(file)]


def test_what_differs_is_told_and_whether_the_samples_show_it(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.compare(["base", "faster"], None, as_json=False)
    said = capsys.readouterr().out
    (faster,) = [ref.rev for ref in git.experiments() if ref.name == "faster"]
    first, second = right("base"), right(faster)
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    won = sum(b and not a for a, b in zip(first, second, strict=True))
    assert "parameter  base   faster\nlr         0.005  0.03\n\n" in said
    assert (
        f"same {len(first)} test samples, only faster classifies {won} correctly, only base {lost}"
        in said
    )
    assert f"accuracy {100 * (won - lost) / len(first):+.2f} points" in said
    row = next(line.split() for line in said.splitlines() if line.startswith("test_accuracy "))
    assert [float(cell) for cell in row[1:3]] == pytest.approx(
        [sum(each) / len(first) for each in (first, second)]
    )
    assert float(row[3]) == pytest.approx((sum(second) - sum(first)) / len(first), abs=1e-3)


def test_markdown_has_the_same_numbers(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    compare.compare(["base", "faster"], None, as_markdown=True)
    printed = capsys.readouterr().out
    assert "| lr | 0.005 | 0.03 |\n" in printed
    compare.compare(["base", "faster"], None)
    row = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("test_accuracy ")
    )
    assert f"| {' | '.join(row.split())} |\n".replace("_", r"\_") in printed


def test_an_experiment_is_the_same_by_whatever_name(
    made: Made, told: Callable[..., dict[str, Any]]
) -> None:
    (ref,) = [ref for ref in git.experiments() if ref.name == "faster"]
    run, stage = made.run("faster"), made.run("faster", "train")
    names = [
        "faster",
        ref.rev,
        ref.rev[:10],
        run.info.run_id,
        run.info.run_id[:8],
        stage.info.run_id,
    ]
    found = told(*names)
    assert found["params"] == found["files"] == {}
    assert found["notes"] == []
    for test in found["tests"]:
        assert (test["p"], test["only_first"], test["only_second"], test["n_samples"]) == (
            1.0,
            0,
            0,
            360,
        )
    for what in ("test_accuracy", "val_loss", "train_s"):
        assert len({*found["metrics"][what]["values"]} - {None}) == 1
        assert found["metrics"][what]["differences"] == [0.0] * 6
    assert len({str(each["history"]) for each in found["experiments"]}) == 1


def test_the_workspace_is_what_dvc_lock_says_ran_and_no_more(
    made: Made, told: Callable[..., dict[str, Any]]
) -> None:
    assert told("base", "workspace")["params"] == {}
    paths.PARAMS.write_text(paths.PARAMS.read_text().replace("\nlr: 0.005", "\nlr: 0.5"))
    try:
        found = told("base", "workspace")
    finally:
        subprocess.run(["git", "restore", paths.PARAMS], check=True)
    assert found["params"] == {}
    assert found["notes"] == [
        "workspace: params.yaml has other values than what ran, which are shown: lr"
    ]


def test_what_dvc_has_forgotten_mlflow_knows(
    made: Made, told: Callable[..., dict[str, Any]]
) -> None:
    known, run = told("base", "faster"), made.run("faster")
    with forgotten("faster"):
        by_name, by_id = told("base", "faster"), told("base", run.info.run_id[:8])
        assert (
            by_name["experiments"][1]["is"]
            == f"FINISHED in MLflow as faster, run {run.info.run_id}"
        )
        for found in (by_name, by_id):
            assert found["params"] == {"lr": ["0.005", "0.03"]}
            assert found["metrics"] == known["metrics"]
            assert found["experiments"][1]["history"] == known["experiments"][1]["history"]
        assert by_name["tests"] == known["tests"]
        with without(".dvc/cache"):  # then its predictions are MLflow's
            assert told("base", "faster")["tests"] == known["tests"]
            with without("mlruns"):
                found = told("base", "faster")
    (test,) = found["tests"]
    assert (
        test["why"]
        == "the predictions of faster are neither in DVC's cache nor in MLflow; run it again"
    )
    assert "p" not in test
    assert found["params"] == known["params"]
    assert found["metrics"] == known["metrics"]


@pytest.mark.parametrize("place", ["http://127.0.0.1:9", "sqlite:///elsewhere.db"])
def test_where_mlflow_is_away_dvc_s_part_is_told(
    made: Made, told: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    found = told("base", "faster")
    assert found["params"] == {"lr": ["0.005", "0.03"]}
    assert "p" in found["tests"][0]
    assert "train_s" not in found["metrics"]
    assert found["notes"][0].startswith("without what only MLflow has: MLflow: ")
    assert "MLflow: " in refused("base", "faster-than-that")
    assert not Path("elsewhere.db").exists()


def test_a_name_is_one_experiment_s_or_refused(made: Made) -> None:
    assert "nothing is called so; should be `workspace`, an experiment" in refused("base", "fastre")
    assert refused("base", "fastre").endswith("; did you mean faster?")
    assert "give two or more" in refused("base")
    made.clone.type("git branch faster")
    try:
        said = refused("faster", "base")
    finally:
        made.clone.type("git branch -D faster")
    assert said.startswith("faster: may be DVC's experiment, commit ")
    assert " or commit " in said
    empty = made.clone.type(f"git {WHO} commit-tree $(git mktree < /dev/null) -m empty").strip()
    assert "has no dvc.lock, so nothing was made there; `dvc repro` makes it" in refused(
        "base", empty
    )


def test_the_page_is_whole_by_itself_and_lies_where_it_was_asked_for(made: Made) -> None:
    Path("tests/deep").mkdir(exist_ok=True)
    made.clone.type("cd tests/deep && retrace compare base faster --html new/page.html")
    page = Path("tests/deep/new/page.html").read_text()
    assert page.count('<svg class="chart"') == 2
    assert page.count('class="line') == 2 * 2 * 2
    for outside in ("http:", "https:", "src=", "<link", "<script", "url(", "@import"):
        assert outside not in page
    with pytest.raises(RetraceError, match=r"^--html tests: .*; name a file that can be written$"):
        compare.compare(["base", "faster"], Path("tests"), as_json=False)
