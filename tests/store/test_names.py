"""Names, conditions and artifact paths that MLflow accepts, and what it keeps under them."""

import shutil
from pathlib import Path

import mlflow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels import models as tables
from mlflow.utils import search_utils, uri, validation

from retrace.event_log import EventLog, copy_of
from retrace.store import backend, cached_stages, entries, filters, names, run_tags
from retrace.store import runs as runs_of
from retrace.store.upload import Upload

TOKENS = [
    "a",
    "é",
    " ",
    "x40",
    ":xffffffff:",
    "cut-0123456789abcdef",
    ":at:",
    *names.WORDS,
    "..",
    "\n",
    "\ud800",
]
NAMES = (
    st.text(max_size=300)
    | st.text("ab/.:", max_size=8)
    | st.lists(st.sampled_from(TOKENS), max_size=90).map("".join)
)
VALUES = st.text("ab'\"\\`%_;-/*$[ \n", max_size=8) | st.text(max_size=8)
HASHES = {"data/a 'b' \"c\".csv": "1" * 32, "../x": "2" * 32, "q" * 300: "3" * 32}


def is_accepted(name: str) -> bool:
    try:
        validation._validate_tag_name(name)
    except MlflowException:
        return False
    return len(name) <= validation.MAX_ENTITY_KEY_LENGTH


def test_limits_are_those_of_mlflow() -> None:
    assert (
        validation.MAX_ENTITY_KEY_LENGTH,
        validation.MAX_TAG_VAL_LENGTH,
        validation.MAX_PARAM_VAL_LENGTH,
        validation.MAX_EXPERIMENT_NAME_LENGTH,
        validation.MAX_DATASET_NAME_SIZE,
        tables.SqlRun.__table__.c.name.type.length,
    ) == (
        names.MAX_NAME,
        names.MAX_TAG,
        names.MAX_PARAM,
        names.MAX_EXPERIMENT,
        names.MAX_DATASET,
        names.MAX_RUN_NAME,
    )


@given(NAMES)
def test_encoded_name_is_accepted(name: str) -> None:
    encoded = names.encode(name)
    validation._validate_metric(encoded, 1.0, 0, 0)
    validation._validate_param(encoded, "")
    validation._validate_tag(encoded, "")


@given(NAMES)
def test_decode_inverts_encode(name: str) -> None:
    encoded = names.encode(name)
    if not names.CUT.search(encoded):
        assert names.decode(encoded) == name
    assert names.decode(encoded, names.full_names([name])) == name


@given(NAMES.filter(is_accepted))
def test_accepted_name_is_unchanged(name: str) -> None:
    looks_escaped = names.ESCAPED.search(name) or names.CUT.search(name)
    assert looks_escaped or name.endswith("\n") or names.encode(name) == name


@given(NAMES, NAMES)
def test_encode_is_injective(first: str, second: str) -> None:
    assert (names.encode(first) == names.encode(second)) == (first == second)


@pytest.mark.parametrize(
    ("name", "encoded"),
    [
        ("train/loss: mean-1.0", "train/loss: mean-1.0"),
        ("retrace.run.train@cnn", "retrace.run.train:at:cnn"),
        ("../x", ":dot:./x"),
        ("a//b", "a/:slash:b"),
        ("F1 (macro)", "F1 :lparen:macro:rparen:"),
        ("", ":empty:"),
        ("\N{PILE OF POO}", ":x1f4a9:"),
        ("m" * 251, "m" * 228 + ":cut-0a88c197d79a1c80:"),
    ],
)
def test_encoded_name_is_readable(name: str, encoded: str) -> None:
    assert names.encode(name) == encoded


@given(NAMES)
def test_artifact_path_is_accepted(path: str) -> None:
    encoded = names.encode_path(path)
    assert uri.validate_path_is_safe(encoded) == encoded
    assert not validation.path_not_unique(encoded)


@pytest.mark.parametrize("path", ["plots/a (1)+2@x,y.png", "sub/dvc.yaml:train.csv", "100%.txt"])
def test_accepted_path_is_unchanged(path: str) -> None:
    assert names.encode_path(path) == path


@given(NAMES, VALUES, VALUES)
def test_condition_holds_name_and_value(name: str, value: str, title: str) -> None:
    query = " and ".join(
        [
            filters.equals(filters.tag(name), value),
            filters.equals("attributes.run_name", title),
            filters.exists("a b"),
        ]
    )
    first, second, third = search_utils.SearchUtils.parse_search_filter(query)
    assert (first["type"], first["key"]) == ("tag", names.encode(name))
    assert (third["key"], third["value"]) == ("a b", "%")
    for condition, text in ((first, value), (second, title)):
        if filters.is_exact(text):
            assert (condition["comparator"], condition["value"]) == ("=", names.storable(text))


@pytest.fixture
def experiment(store: mlflow.MlflowClient) -> str:
    return backend.experiment_of(store, '../it\'s "free" #1')


@pytest.fixture
def run(store: mlflow.MlflowClient, experiment: str) -> str:
    return store.create_run(experiment).info.run_id


def test_experiment_stays_in_its_folder(
    folder: Path, store: mlflow.MlflowClient, experiment: str
) -> None:
    (own,) = [each for each in store.search_experiments() if each.experiment_id == experiment]
    assert own.name == '../it\'s "free" #1'
    run = store.create_run(experiment)
    Path("a.txt").write_text("a")
    store.log_artifact(run.info.run_id, "a.txt")
    (file,) = folder.glob("mlruns/*/**/a.txt")
    assert file.relative_to(folder / "mlruns").parts[1].endswith(":dquote:free:dquote: :hash:1")
    assert backend.experiment_of(store, own.name) == experiment


def test_entries_of_any_name(store: mlflow.MlflowClient, run: str) -> None:
    values = {"acc@5": 0.5, "n" * 400: 2.0, "loss": float("nan"), "big": 10**400}
    entries.log_metrics(store, run, entries.points(values, 1, 3), values)
    entries.log_params(store, run, {"a//b": "x" * 7000, "\0": "\0\ud800", "p" * 300: 1})
    entries.log_tags(store, run, HASHES | {"t": "x" * 9000})
    data = store.get_run(run).data
    decoded = {names.decode(key, data.tags): value for key, value in data.metrics.items()}
    assert decoded == pytest.approx(values | {"big": 1.7976931348623157e308}, nan_ok=True)
    assert {names.decode(key, data.tags): value for key, value in data.params.items()} == {
        "a//b": "x" * 6000,
        "\0": "\\0\\ud800",
        "p" * 300: "1",
    }
    assert {names.decode(key, data.tags): value for key, value in data.tags.items()}.items() >= (
        HASHES | {"t": "x" * 8000}
    ).items()


def test_stage_of_any_name(store: mlflow.MlflowClient, experiment: str, run: str) -> None:
    stage = 'it\'s "a" stage@`x`\\'
    outs = run_tags.of_outs(HASHES, {})
    for name in (stage.upper(), stage):
        tags = names.tags({"retrace.stage": name, "mlflow.parentRunId": run} | outs)
        child = store.create_run(experiment, tags=tags)
        store.set_terminated(child.info.run_id)
    maker = cached_stages.maker(store, experiment, stage, HASHES.values())
    assert maker
    assert maker.info.run_id == child.info.run_id
    assert cached_stages.hashes(maker, "outs") == HASHES
    assert len(runs_of.children(store, experiment, run, stage)) == 1
    runs_of.update_status(store, experiment, run)
    tags = store.get_run(run).data.tags
    assert run_tags.stage_run(tags, stage) == child.info.run_id
    cached_stages.link(store, run, {"evaluate@x": maker})
    assert store.get_run(run).data.tags["retrace.cached.evaluate:at:x"] == child.info.run_id


def test_summary_longer_than_a_tag(store: mlflow.MlflowClient, experiment: str, run: str) -> None:
    values = {f"{n} {'é' * 90}": n / 7 for n in range(150)} | {"nan": float("inf")}
    entries.log_tags(store, run, cached_stages.summary_tags(values))
    child = store.get_run(run)
    assert "retrace.headline.2" in child.data.tags
    assert cached_stages.summary(child) == values
    parent = store.create_run(experiment).info.run_id
    assert cached_stages.summary(store.get_run(parent)) == {}
    cached_stages.link(store, parent, {"train": child})
    linked = store.get_run(parent).data
    assert {names.decode(key, linked.tags) for key in linked.metrics} == values.keys()


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("plots/a#1?.png", "plots/a(hash)1(question).png"),
        ("../out/b.csv", "(dot)./out/b.csv"),
        ("c (1).txt", "c (1).txt"),
    ],
)
def test_artifact_of_any_path(
    folder: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, path: str, logged: str
) -> None:
    here = folder / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    shutil.copy(empty_store, "mlflow.db")
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text("content")
    log = EventLog(here / "log", **START)
    log.artifact(Path(path))
    log.artifact(Path(path).resolve())
    assert copy_of(log.path, path).is_relative_to(log.path.with_suffix(""))
    log.end("FINISHED")
    Upload(log.path).advance()
    client = backend.client()
    (child,) = client.search_runs(["1"], filters.exists("retrace.stage"))
    target = client.download_artifacts(child.info.run_id, logged, str(folder))
    assert Path(target).read_text() == "content"
    absolute = names.encode_path(str(Path(path).resolve()))
    assert client.list_artifacts(child.info.run_id, str(Path(absolute).parent))[0].path == absolute


START = {
    "stage": "train@cnn",
    "dataset": "mnist",
    "key": "k",
    "folds": None,
    "experiment": {},
    "sweep": None,
    "commit": None,
    "user": "me",
    "machine": "here",
    "params": {},
    "own_params": {},
    "deps": HASHES,
    "inputs": "i",
    "makers": {},
    "later": {},
}
