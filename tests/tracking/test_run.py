"""What the code of a stage logs: which values are allowed, and the events that they become."""

from collections import namedtuple
from decimal import Decimal
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow_runs import runs

import retrace
from retrace import event_log
from retrace.errors import DataError, RetraceError
from retrace.pipeline import hashing
from retrace.tracking.run import Run, Untracked

Row = namedtuple("Row", ["file", "reason"])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return the run of a stage in an empty repository, which is the working directory."""
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    return Run(tmp_path / "journal", stage="fit@a")


def events(run: Run) -> list[tuple[str, Any]]:
    """Return kind and content of what was logged."""
    return [
        (event["kind"], event.get("values", event.get("path")))
        for event in event_log.read(run.path)[1:]
    ]


@pytest.mark.parametrize(
    "value",
    [
        *(1, 1.0, True, Decimal(1), np.float64(1), np.float32(1), np.int8(1), np.array([1])),
        *(torch.tensor(1), torch.tensor([1.0])),
    ],
    ids=repr,
)
def test_scalars_are_numbers(run: Run, value: Any) -> None:
    run.log({"loss": value}, step=3)
    assert event_log.read(run.path)[-1]["step"] == 3
    assert events(run) == [("metrics", {"loss": 1})]


def test_nan_is_a_number(run: Run) -> None:
    run.log({"loss": float("nan")})
    ((_, values),) = events(run)
    assert np.isnan(values["loss"])


@pytest.mark.parametrize(
    "value",
    ["0.5", b"1", None, [1.0], {"a": 1}, 1j, np.zeros(2), torch.zeros(2)],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_refused(run: Run, value: Any) -> None:
    with pytest.raises(TypeError, match=r"metric loss is .*; should be a number"):
        run.log({"accuracy": 1.0, "loss": value})
    with pytest.raises(TypeError, match="metric loss"):
        run.summary({"loss": value})
    assert events(run) == []


@pytest.mark.parametrize("step", [1.0, "1", None])
def test_step_is_an_integer(run: Run, step: Any) -> None:
    with pytest.raises(TypeError, match=r"step is .*; should be an integer"):
        run.log({"loss": 1.0}, step)
    run.log({"loss": 1.0}, step=np.int64(7))  # pyright: ignore[reportArgumentType]
    assert event_log.read(run.path)[-1]["step"] == 7


@pytest.mark.parametrize("metrics", ["loss", 0.5, [("loss", 0.5)], {1: 0.5}])
def test_metrics_are_a_mapping(run: Run, metrics: Any) -> None:
    with pytest.raises(TypeError, match="metric"):
        run.log(metrics)


def test_summary_has_the_stage_before_it(run: Run) -> None:
    run.log({"loss": 0.5}, step=1)
    run.summary({"loss": 0.25, "rmse": 2})
    assert events(run)[1:] == [
        ("metrics", {"rmse": 2}),  # loss has a curve
        ("headline", {"fit@a/loss": 0.25, "fit@a/rmse": 2}),
    ]


def test_tags_are_texts(run: Run) -> None:
    run.set_tags({"data.source": Path("raw")}, device="cpu", n=3)
    assert events(run) == [("tags", {"data.source": "raw", "device": "cpu", "n": "3"})]


def test_artifact_is_copied_as_it_is_now(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plot = Path("sub/plot.txt")
    plot.parent.mkdir()
    plot.write_text("now")
    monkeypatch.chdir("sub")
    run.log_artifact("plot.txt")
    Path("plot.txt").write_text("later")
    assert events(run) == [("artifact", "sub/plot.txt")]
    assert event_log.copy_of(run.path, plot).read_text() == "now"


def test_folder_is_its_files(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    for folder in (Path("plots"), outside):
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "1.txt").touch()
        (folder / "2.txt").touch()
    run.log_artifact(Path("plots"))
    run.log_artifact(outside / "2.txt")
    assert [path for _, path in events(run)] == ["plots/2.txt", "plots/a/1.txt", "2.txt"]


@pytest.mark.parametrize("name", ["log_artifact", "log_model"])
def test_missing_file_is_one_line(run: Run, name: str) -> None:
    with pytest.raises(DataError) as refused:
        getattr(run, name)("plots/none.png")
    assert str(refused.value).startswith(f"{name}: plots/none.png does not exist; ")
    assert events(run) == []


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([Row("a.png", "torn"), Row("b.png", "x, y")], 'file,reason\na.png,torn\nb.png,"x, y"\n'),
        ([{"a": 1}, {"b": 2.5}], "a,b\n1,\n,2.5\n"),
        ([["a", "b"], (1, 2)], "a,b\n1,2\n"),
        (pd.DataFrame({"a": [1, 2]}), "a\n1\n2\n"),
        (({"a": i} for i in range(2)), "a\n0\n1\n"),
        ([], ""),
    ],
    ids=["named", "mappings", "lists", "frame", "generator", "empty"],
)
def test_table_is_csv(run: Run, rows: Any, text: str) -> None:
    run.log_table("t/rows.csv", rows)
    assert events(run) == [("artifact", "t/rows.csv")]
    assert event_log.copy_of(run.path, "t/rows.csv").read_text() == text


def test_table_may_be_tsv(run: Run) -> None:
    run.log_table("rows.tsv", [("a", "b")])
    assert event_log.copy_of(run.path, "rows.tsv").read_text() == "a\tb\n"


def test_wrong_table_is_refused(run: Run) -> None:
    with pytest.raises(RetraceError, match=r"'rows.json' should end in .csv or .tsv"):
        run.log_table("rows.json", [])
    with pytest.raises(TypeError, match="should be all mappings"):
        run.log_table("rows.csv", ["a", "b"])
    assert events(run) == []


def test_model_is_a_file_or_folder(run: Run) -> None:
    Path("models/net").mkdir(parents=True)
    for name in ("MLmodel", "data/w.bin"):
        path = Path("models/net") / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    run.log_model("models/net/data/w.bin")
    run.log_model("models/net")
    expected = [("model_files", "models/net/data/w.bin"), ("model_files", "models/net")]
    assert events(run) == expected
    assert [each["name"] for each in event_log.read(run.path)[1:]] == ["w", "net"]
    copies = [event_log.model_copy(run.path, each) for each in event_log.read(run.path)[1:]]
    assert [copy and hashing.md5(copy) for copy in copies] == [
        hashing.md5(Path(path)) for _, path in expected
    ]


def test_model_that_changes_is_logged_again(run: Run) -> None:
    for text in ("first", "second"):
        Path("w.bin").write_text(text)
        run.log_model("w.bin")
    copies = [event_log.model_copy(run.path, each) for each in event_log.read(run.path)[1:]]
    assert [copy and copy.read_text() for copy in copies] == ["first", "second"]


def test_incomplete_copy_is_no_model(run: Run) -> None:
    Path("net").mkdir()
    Path("net/a").touch()
    Path("net/b").touch()
    run.log_model("net")
    event = event_log.read(run.path)[-1]
    copy = event_log.model_copy(run.path, event)
    assert copy
    (copy / "a").unlink()  # as on a full disk
    assert event_log.model_copy(run.path, event) is None


def test_untracked_only_checks(run: Run) -> None:
    untracked = Untracked()
    untracked.log({"loss": 1.0})
    untracked.summary({"loss": 1.0})
    untracked.log_table("rows.csv", [("a",)])
    Path("w.bin").touch()
    untracked.log_model("w.bin")
    untracked.log_artifact("w.bin")
    untracked.sync()
    with pytest.raises(TypeError):
        untracked.log({"loss": "1"})  # pyright: ignore[reportArgumentType]
    assert {path.name for path in Path().iterdir()} == {".dvc", "journal", "w.bin"}


@pytest.mark.usefixtures("beside")
def test_model_files_are_logged_models(
    folder: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_STAGE", "visualize")  # the last: it waits for the upload
    monkeypatch.setenv("DVC_ROOT", str(folder))
    Path(".dvc").mkdir()
    Path("net/data").mkdir(parents=True)
    Path("net/MLmodel").write_text("flavors: {}\nmodel_uuid: a\n")
    for name in ("net/data/w#1.bin", "single.bin"):
        Path(name).write_text(name)
    with retrace.stage() as run:
        run.log_model("net")
        run.log_model("single.bin")
    (parent,), (child,) = runs(store)
    models = {model.name: model for model in store.search_logged_models(["1"])}
    assert models.keys() == {"net", "single"}
    for run in (parent, child):
        assert run.outputs
        outputs = {each.model_id for each in run.outputs.model_outputs}
        assert outputs == {model.model_id for model in models.values()}
    assert models["net"].tags["retrace.md5"] == hashing.md5(Path("net"))
    net = Path(models["net"].artifact_location.removeprefix("file://"))
    assert f"model_id: {models['net'].model_id}\n" in (net / "MLmodel").read_text()
    assert (net / "data/w(hash)1.bin").read_text() == "net/data/w#1.bin"
