"""`retrace promote`: which models get an alias in MLflow's registry."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import mlflow
import pytest
import torch
from conftest import enter, follow_here
from faults.servers import Server
from repository import ROOT, environment

from lab import paths
from lab.cli import predict
from lab.models import classifier
from lab.models.classifier import ModelConfig
from retrace.errors import RetraceError
from retrace.provenance import promotion
from retrace.store import run_tags
from retrace.tracking import stage

ADDRESS = "models:/mnist@champion"
ACCURACIES = {
    "good": 0.9,
    "better": 0.95,
    "worse": 0.8,
    "elsewhere": 0.99,
    "failed": 0.9,
    "untested": None,
}
MODEL_CONFIG = ModelConfig(
    model="softmax",
    settings={},
    shape=(1, 8, 8),
    class_names=("a", "b"),
    mean=(33.0,),
    std=(78.0,),
    pretrained=None,
    epoch=1,
)

pytestmark = pytest.mark.xdist_group("promote")


class World(NamedTuple):
    """A folder with MLflow's database of trained networks, and the ids of their runs by name."""

    folder: Path
    parents: dict[str, str]
    children: dict[str, str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> World:
    """Networks tested on one test split, on another one, with a failure, or not at all."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patched:
        enter(folder, patched)
        follow_here(patched)
        shutil.copy(empty_store, folder / "mlflow.db")
        _run_stages()
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (experiment,) = [
        one.experiment_id for one in client.search_experiments() if one.name == "mnist"
    ]
    runs = client.search_runs([experiment], order_by=["start_time ASC"])
    parents = [run.info.run_id for run in runs if "retrace.key" in run.data.tags]
    trained = {
        run.data.tags["mlflow.parentRunId"]: run.info.run_id
        for run in runs
        if run.info.run_name == "train"
    }
    children = [trained[parent] for parent in parents]
    return World(
        folder,
        dict(zip(ACCURACIES, parents, strict=True)),
        dict(zip(ACCURACIES, children, strict=True)),
    )


@pytest.fixture
def world(built: World, folder: Path) -> World:
    """The networks, in a database of the test's own; the artifacts are shared."""
    shutil.copy(built.folder / "mlflow.db", folder)
    return built._replace(folder=folder)


def _run_stages() -> None:
    for split in (paths.TRAIN, paths.VALIDATION, paths.TEST):
        split.parent.mkdir(parents=True, exist_ok=True)
        split.write_bytes(split.name.encode())
    for seed, (name, accuracy) in enumerate(ACCURACIES.items()):
        values = (ROOT / paths.PARAMS).read_text().replace("\nseed: 0", f"\nseed: {seed}")
        paths.PARAMS.write_text(values)
        with stage.stage("train") as run:
            torch.manual_seed(seed)
            classifier.save(classifier.build(MODEL_CONFIG), MODEL_CONFIG)
            run.model(paths.WEIGHTS, paths.MODEL_CONFIG)
        if accuracy is None:
            continue
        if name == "elsewhere":
            paths.TEST.write_bytes(b"another")
        with suppress(ValueError), stage.stage("evaluate") as run:
            run.metrics({"test_accuracy": accuracy})
            run.summary({"test_accuracy": accuracy})
            if name == "failed":
                raise ValueError("wet")
        paths.TEST.write_bytes(paths.TEST.name.encode())


def client_of(world: World) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{world.folder / 'mlflow.db'}")


def registered(world: World) -> dict[str, str]:
    """Return the run of each alias, and the number of versions."""
    client = client_of(world)
    models = client.search_registered_models()
    aliases = {alias: version for model in models for alias, version in model.aliases.items()}
    runs = {
        a: client.get_model_version("mnist", str(n)).tags["retrace.run"] for a, n in aliases.items()
    }
    return runs | {"versions": str(len(client.search_model_versions("name = 'mnist'")))}


def refused(run: str, alias: str = "champion") -> str:
    """Return the one line with which a promotion is refused."""
    with pytest.raises(RetraceError) as caught:
        promotion.promote(run, alias, force=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_version_is_of_the_experiment_itself(world: World) -> None:
    client = client_of(world)
    good = world.parents["good"]
    above = client.create_run(client.get_run(good).info.experiment_id).info.run_id
    client.set_tag(good, "mlflow.parentRunId", above)
    for run in good, world.children["good"]:
        promotion.promote(run, "champion", force=False)
        assert registered(world) == {"champion": good, "versions": "1"}
    tags = client.get_model_version("mnist", "1").tags
    assert tags["retrace.key"] == client.get_run(good).data.tags["retrace.key"]


def test_better_model_takes_the_alias(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    good, better, worse = (world.parents[name] for name in ("good", "better", "worse"))
    promotion.promote(good, "champion", force=False)
    assert "models:/mnist@champion is version 1" in capsys.readouterr().out
    before = client_of(world).get_model_version("mnist", "1")

    promotion.promote(good, "champion", force=False)  # again
    train = world.children["good"]
    promotion.promote(train[:8], "champion", force=False)  # and by the run that trained it
    assert capsys.readouterr().out.count("nothing changed") == 2
    assert vars(client_of(world).get_model_version("mnist", "1")) == vars(before)

    promotion.promote(better, "champion", force=False)
    assert registered(world) == {"champion": better, "versions": "2"}
    message = refused(good)
    for text in (
        f"run {good[:8]}: ",
        "test_accuracy is 0.9,",
        "mnist@champion (version 2)",
        "0.95",
        "--force",
    ):
        assert text in message
    assert "is 0.8," in refused(worse)
    assert registered(world) == {"champion": better, "versions": "2"}

    promotion.promote(worse, "champion", force=True)
    promotion.promote(good, "challenger", force=False)  # the version that there is
    assert registered(world) == {"champion": worse, "challenger": good, "versions": "3"}

    tags = before.tags
    run = client_of(world).get_run(train)
    for kind, path in (("outs", paths.WEIGHTS), ("deps", paths.TRAIN)):
        assert tags[f"dvc.{kind}.{path}"] == run_tags.hashes(run, kind)[str(path)]
    assert tags["retrace.key"] == client_of(world).get_run(good).data.tags["retrace.key"]
    assert (tags["retrace.run"], tags["retrace.run.train"]) == (good, train)
    assert float(tags["test_accuracy"]) == 0.9


def test_other_test_data_is_not_comparable(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    promotion.promote(world.parents["good"], "champion", force=False)
    assert "mnist@champion (version 1) was tested on other data (" in refused(
        world.parents["elsewhere"]
    )
    promotion.promote(world.parents["elsewhere"], "champion", force=True)
    assert "forced: mnist@champion (version 1) was tested on other data" in capsys.readouterr().out
    assert "was tested on other data" in refused(world.parents["good"])


def test_accuracy_on_common_test_data_counts(world: World) -> None:
    promotion.promote(world.parents["elsewhere"], "champion", force=False)
    client = client_of(world)
    version = client.get_model_version("mnist", "1")
    evaluated = client.get_run(version.tags["retrace.run.evaluate"])
    weights = str(paths.WEIGHTS)
    better = run_tags.hashes(client.get_run(world.children["better"]), "outs")[weights]
    deps = run_tags.hashes(evaluated, "deps") | {weights: better}
    tags = evaluated.data.tags | run_tags.of_deps(deps, [weights])
    again = client.create_run(evaluated.info.experiment_id, tags=tags).info.run_id
    client.log_metric(again, "test_accuracy", 0.995)
    client.set_terminated(again, "FINISHED")
    promotion.promote(world.parents["better"], "champion", force=False)
    assert client.get_model_version_by_alias("mnist", "champion").tags["test_accuracy"] == "0.995"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("failed", "is FAILED; only runs with status FINISHED can be promoted"),
        ("untested", "its model was not tested; `dvc repro evaluate`"),
        ("no run", "was not found in sqlite:///"),
    ],
)
def test_unfinished_or_untested_is_refused(world: World, name: str, expected: str) -> None:
    assert expected in refused(world.parents.get(name, name))
    assert registered(world) == {"versions": "0"}


def test_run_without_model_is_refused(world: World) -> None:
    client = client_of(world)
    experiment = client.get_run(world.parents["good"]).info.experiment_id
    tags = {"retrace.stage": "download"}
    download = client.create_run(experiment, tags=tags, run_name="download").info.run_id
    client.set_terminated(download, "FINISHED")
    assert "`retrace sync`" in refused(download)


@pytest.mark.parametrize(
    "alias", ["", "v1", "V22", "latest", "Latest", "a b", "-x", "a/b", "x" * 200, "a\nb"]
)
def test_alias_is_a_word(alias: str) -> None:
    assert "should be a word such as champion" in refused("75ebfe", alias)


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("models:/mnist@champion", "which has none yet; `retrace promote RUN` adds one"),
        ("models:/mnist/3", "which has none yet"),
        ("models:/mnist", "should be models:/name@alias or models:/name/version"),
        ("models:/mnist@a@b", "should be models:/name@alias"),
        ("models:/a'b@c", "not in sqlite"),
        ("0123456789", "no model file here, and no run in sqlite:"),
        ("gone/model.safetensors", "no model file here, and no run in sqlite:"),
    ],
)
def test_unknown_model_is_refused(model: str, expected: str) -> None:
    with pytest.raises(RetraceError) as caught:
        predict.load(model, Path.cwd(), "cpu")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_foreign_version_is_not_loaded(
    world: World,
) -> None:
    client = client_of(world)
    client.create_registered_model("mnist")
    client.create_model_version("mnist", (world.folder / "anything").as_uri())
    client.set_registered_model_alias("mnist", "champion", "1")
    with pytest.raises(
        RetraceError, match="mnist@champion does not refer to a model of this pipeline"
    ):
        predict.load(ADDRESS, Path.cwd(), "cpu")
    assert "mnist@champion (version 1) has no test_accuracy" in refused(world.parents["good"])


def test_deleted_model_is_refused(world: World) -> None:
    promotion.promote(world.parents["good"], "champion", force=False)
    client = client_of(world)
    client.delete_logged_model(_model(world))
    with pytest.raises(RetraceError, match="was deleted from MLflow"):
        predict.load(ADDRESS, Path.cwd(), "cpu")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("loader_module: mlflow.pytorch", "loader_module: os"),
        ("data: data", "data: data\n    code: code"),
        ("class_names", "names"),
    ],
)
def test_model_with_code_is_not_loaded(built: World, world: World, old: str, new: str) -> None:
    promotion.promote(world.parents["good"], "champion", force=False)
    file = built.folder / f"mlruns/mnist/models/{_model(world)}/artifacts/MLmodel"
    original = file.read_text()
    assert old in original
    file.write_text(original.replace(old, new, 1))
    try:
        with pytest.raises(RetraceError, match="was not created by this pipeline"):
            predict.load(ADDRESS, Path.cwd(), "cpu")
    finally:
        file.write_text(original)


def _model(world: World) -> str:
    return str(client_of(world).get_model_version("mnist", "1").source).removeprefix("models:/")


@pytest.fixture
def server(world: World) -> Iterator[Server]:
    """MLflow's server of the world's store."""
    server = Server(
        f"sqlite:///{world.folder / 'mlflow.db'}", world.folder, environment(world.folder)
    )
    server.start()
    yield server
    server.kill()


def test_registry_on_a_server(
    world: World, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    promotion.promote(world.parents["good"], "champion", force=False)
    promotion.promote(world.parents["better"], "champion", force=False)
    assert "0.95" in refused(world.parents["good"])
    assert registered(world) == {"champion": world.parents["better"], "versions": "2"}
    assert predict.load(ADDRESS, Path.cwd(), "cpu").class_names == ("a", "b")
    server.kill()
    assert refused(world.parents["good"]).startswith("http://127.0.0.1:")
