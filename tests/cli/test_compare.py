"""`retrace compare`: experiments of the workspace, git, DVC and MLflow side by side."""

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
from faults.servers import until
from mlflow.entities import Run
from repository import Clone

from lab import paths
from retrace.cli import compare
from retrace.errors import RetraceError
from retrace.pipeline import git, snapshot
from retrace.pipeline.workspace import Workspace
from retrace.store import run_tags

SMALL = {
    "dataset: mnist": "dataset: digits",
    "epochs: 5": "epochs: 2",
    "threads: 2": "threads: 1",
    "    samples: 500": "    samples: 100",
}
WHO = "-c user.name=test -c user.email=test@localhost"

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("compare")]


class Trained:
    """A clone with a pipeline on digits: the tag `base`, and the DVC experiment `faster`."""

    def __init__(self, above: Path, database: Path) -> None:
        (above / "clone").mkdir()
        self.clone = Clone(above / "clone", above / "cache", SMALL)
        shutil.copy(database, self.clone.path / "mlflow.db")
        self.clone.type("rm dvc.lock && dvc repro evaluate")
        self.clone.commit("digits")
        self.clone.type("git tag base")
        self.clone.type("dvc exp run --name faster -S lr=0.03 evaluate")
        self.clone.type("git restore . && dvc checkout train evaluate")
        # evaluate is not DVC's last stage, so nothing has waited for the uploaders.
        logs = self.clone.path / ".retrace" / "journal"
        until(lambda: not any(logs.glob("*.jsonl")), 120.0, "the uploads")
        self.client = mlflow.MlflowClient(f"sqlite:///{self.clone.path / 'mlflow.db'}")

    def run(self, name: str, stage: str = "") -> Run:
        """Return the run of an experiment in MLflow, or of its `stage`."""
        ids = [each.experiment_id for each in self.client.search_experiments()]
        (parent,) = self.client.search_runs(ids, f"attributes.run_name = '{name}'")
        own = run_tags.stage_run(parent.data.tags, stage)
        return self.client.get_run(own) if own else parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Trained:
    return Trained(tmp_path_factory.mktemp("compare"), empty_store)


@pytest.fixture
def trained(built: Trained, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """The clone, as the working directory."""
    for name in [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_", "RETRACE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", built.clone.env["DVC_SITE_CACHE_DIR"])
    monkeypatch.chdir(built.clone.path)
    return built


@pytest.fixture
def compared(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Return a function that compares named experiments and returns the JSON document."""

    def load(*names: str) -> dict[str, Any]:
        capsys.readouterr()
        compare.compare(names, None, as_json=True)
        return json.loads(capsys.readouterr().out)

    return load


def refused(*names: str) -> str:
    """Return the one line with which a comparison is refused."""
    with pytest.raises(RetraceError) as error:
        compare.compare(names, None, as_json=False)
    assert "\n" not in str(error.value)
    return str(error.value)


@contextmanager
def forgotten(name: str) -> Iterator[None]:
    """Remove a DVC experiment for the length of the context."""
    (ref,) = [ref for ref in git.experiments() if ref.name == name]
    path = f"refs/exps/{ref.baseline[:2]}/{ref.baseline[2:]}/{name}"
    subprocess.run(["git", "update-ref", "-d", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["git", "update-ref", path, ref.rev], check=True)


@contextmanager
def without(*folders: str) -> Iterator[None]:
    """Move folders of the clone away for the length of the context."""
    for folder in folders:
        Path(folder).rename(f"{folder}.away")
    try:
        yield
    finally:
        for folder in folders:
            Path(f"{folder}.away").rename(folder)


def correct(rev: str) -> list[bool]:
    """Return which test samples an experiment classifies correctly, as DVC has it."""
    with snapshot.export(rev) as folder:
        md5 = Workspace(folder).recorded[str(paths.CONFUSION)]
    with Path(f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}").open(newline="") as file:
        return [row["actual"] == row["predicted"] for row in csv.DictReader(file)]


def test_table_has_differences_and_a_test(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.compare(["base", "faster"], None, as_json=False)
    printed = capsys.readouterr().out
    (faster,) = [ref.rev for ref in git.experiments() if ref.name == "faster"]
    first = correct("base")
    second = correct(faster)
    lost = sum(a and not b for a, b in zip(first, second, strict=True))
    won = sum(b and not a for a, b in zip(first, second, strict=True))
    assert "parameter  base   faster\nlr         0.005  0.03\n\n" in printed
    assert f"same {len(first)} samples, only faster classifies {won} correctly" in printed
    assert f"only base {lost}\n" in printed
    assert f"accuracy {100 * (won - lost) / len(first):+.2f} points" in printed
    row = next(line.split() for line in printed.splitlines() if line.startswith("test_accuracy "))
    assert [float(cell) for cell in row[1:3]] == pytest.approx(
        [sum(each) / len(first) for each in (first, second)]
    )
    assert float(row[3]) == pytest.approx((sum(second) - sum(first)) / len(first), abs=1e-3)


def test_markdown_has_the_same_numbers(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.compare(["base", "faster"], None, as_markdown=True)
    printed = capsys.readouterr().out
    assert "| lr | 0.005 | 0.03 |\n" in printed
    compare.compare(["base", "faster"], None)
    row = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("test_accuracy ")
    )
    assert f"| {' | '.join(row.split())} |\n".replace("_", r"\_") in printed


def test_all_names_of_an_experiment_agree(
    trained: Trained, compared: Callable[..., dict[str, Any]]
) -> None:
    (ref,) = [ref for ref in git.experiments() if ref.name == "faster"]
    run = trained.run("faster")
    stage = trained.run("faster", "train")
    names = [
        "faster",
        ref.rev,
        ref.rev[:10],
        run.info.run_id,
        run.info.run_id[:8],
        stage.info.run_id,
    ]
    document = compared(*names)
    assert document["params"] == document["files"] == {}
    assert document["notes"] == []
    for test in document["tests"]:
        counts = [test[key] for key in ("only_first", "only_second", "n_samples")]
        assert counts == [0, 0, 360]
        assert test["p"] == 1.0
    for what in ("test_accuracy", "val_loss", "train_s"):
        assert len({*document["metrics"][what]["values"]} - {None}) == 1
        assert document["metrics"][what]["differences"] == [0.0] * 6
    assert len({str(each["history"]) for each in document["experiments"]}) == 1


def test_workspace_is_what_dvc_lock_has(
    trained: Trained, compared: Callable[..., dict[str, Any]]
) -> None:
    assert compared("base", "workspace")["params"] == {}
    paths.PARAMS.write_text(paths.PARAMS.read_text().replace("\nlr: 0.005", "\nlr: 0.5"))
    try:
        document = compared("base", "workspace")
    finally:
        subprocess.run(["git", "restore", paths.PARAMS], check=True)
    assert document["params"] == {}
    (note,) = document["notes"]
    assert note.startswith("workspace: params.yaml ")
    assert "(lr)" in note


def test_mlflow_knows_removed_experiments(
    trained: Trained, compared: Callable[..., dict[str, Any]]
) -> None:
    known = compared("base", "faster")
    run = trained.run("faster")
    with forgotten("faster"):
        by_name = compared("base", "faster")
        by_id = compared("base", run.info.run_id[:8])
        assert (
            by_name["experiments"][1]["is"]
            == f"FINISHED in MLflow as faster, run {run.info.run_id}"
        )
        for document in (by_name, by_id):
            assert document["params"] == {"lr": ["0.005", "0.03"]}
            assert document["metrics"] == known["metrics"]
            assert document["experiments"][1]["history"] == known["experiments"][1]["history"]
        assert by_name["tests"] == known["tests"]
        with without(".dvc/cache"):  # then its predictions are MLflow's
            assert compared("base", "faster")["tests"] == known["tests"]
            with without("mlruns"):
                document = compared("base", "faster")
    (test,) = document["tests"]
    assert "predictions of faster" in test["why"]
    assert "p" not in test
    assert document["params"] == known["params"]
    assert document["metrics"] == known["metrics"]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [("http://127.0.0.1:9", "http://127.0.0.1:9 "), ("sqlite:///elsewhere.db", "MLflow: ")],
)
def test_comparison_without_mlflow(
    trained: Trained,
    compared: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    uri: str,
    reason: str,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    document = compared("base", "faster")
    assert document["params"] == {"lr": ["0.005", "0.03"]}
    assert "p" in document["tests"][0]
    assert "train_s" not in document["metrics"]
    assert document["notes"][0].count(reason) == 1
    assert reason in refused("base", "faster-than-that")
    assert not Path("elsewhere.db").exists()


def test_unknown_or_ambiguous_name_is_refused(trained: Trained) -> None:
    assert "`workspace`" in refused("base", "fastre")
    assert refused("base", "fastre").endswith("; did you mean faster?")
    assert refused("base").startswith("base: ")
    trained.clone.type("git branch faster")
    try:
        message = refused("faster", "base")
    finally:
        trained.clone.type("git branch -D faster")
    assert message.startswith("faster is ambiguous: ")
    assert message.count("commit ") >= 2
    empty = trained.clone.type(f"git {WHO} commit-tree $(git mktree < /dev/null) -m empty").strip()
    assert "no dvc.lock" in refused("base", empty)


def test_page_is_self_contained(trained: Trained) -> None:
    Path("tests/deep").mkdir(exist_ok=True)
    trained.clone.type("cd tests/deep && retrace compare base faster --html new/page.html")
    page = Path("tests/deep/new/page.html").read_text()
    assert page.count('<svg class="chart"') == 2
    assert page.count('class="line') == 2 * 2 * 2
    for outside in ("http:", "https:", "src=", "<link", "<script", "url(", "@import"):
        assert outside not in page
    with pytest.raises(
        RetraceError, match=r"^--html tests: .*; choose a file that can be written$"
    ):
        compare.compare(["base", "faster"], Path("tests"), as_json=False)
