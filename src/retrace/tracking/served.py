"""The trained network as MLflow serves it: a pt2 program from raw inputs to probabilities."""

import shutil
import tempfile
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException

from retrace.errors import DataError
from retrace.tracking import programs, store
from retrace.tracking.runs import Pair

if TYPE_CHECKING:
    from retrace.prediction import Device, Predictor

REQUIREMENTS = ("torch", "numpy")
MD5 = "retrace.md5"  # of the weights, by which a model is found


def package(weights: Path, card: Path, folder: Path) -> None:
    """`folder` holds the model in MLflow's format. Needs torch, and the code that the network was built with, unless
    the same network was packaged before.
    """
    network, unfinished = programs.of(card), folder.with_name(".model")
    for left in (folder, unfinished):  # by an upload that was killed
        shutil.rmtree(left, ignore_errors=True)
    if program := programs.kept(network):
        programs.fill(program, weights, unfinished)
        _renew(unfinished)
    else:
        _export(weights, card, unfinished)
        programs.keep(unfinished, network)
    unfinished.replace(folder)


def _export(weights: Path, card: Path, folder: Path) -> None:
    import torch
    from mlflow import pytorch
    from mlflow.models import infer_signature

    from retrace import classifier

    model, said = classifier.load(weights, card)
    served = classifier.Served(model).eval().to(memory_format=torch.contiguous_format)
    example = classifier.example(said, 2).numpy()  # two: a batch of one would fix the batch size
    with torch.inference_mode():
        signature = infer_signature(example, served(torch.from_numpy(example)).numpy())
    pytorch.save_model(
        served,
        str(folder),
        signature=signature,
        input_example=example,
        pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        metadata={"class_names": list(said.class_names), "resize": said.resize},
    )


def _renew(folder: Path) -> None:
    """What MLflow says of the model in `folder` is its own, and not that of the one whose program it has."""
    from mlflow.models import Model

    said = Model.load(str(folder))
    said.model_uuid, said.utc_time_created = uuid.uuid4().hex, str(datetime.now(UTC).replace(tzinfo=None))
    said.save(str(folder / "MLmodel"))


def whole(client: MlflowClient, model: str) -> LoggedModel:
    """The model with this id, all of which MLflow has. Raises DataError where it has not."""
    try:
        found = client.get_logged_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise DataError(f"model {model}: was deleted from MLflow; name another") from None
    if found.status != LoggedModelStatus.READY:
        raise DataError(f"model {model}: was not uploaded whole; `retrace sync` completes it")
    return found


def load(model: str, device: "Device") -> "Predictor":
    """The model with this id in MLflow, as a server has it: no code but MLflow's own and no pickle is loaded. Raises
    DataError where it is none of this pipeline's.
    """
    from mlflow import artifacts, pyfunc
    from mlflow.models import Model

    from retrace.prediction import Predictor

    with store.known(), tempfile.TemporaryDirectory() as folder:
        place = artifacts.download_artifacts(artifact_uri=f"models:/{model}", dst_path=folder)
        said, program = Model.load(place), Path(place, programs.PT2)
        loader = said.flavors.get(pyfunc.FLAVOR_NAME, {})
        metadata = said.metadata or {}
        is_ours = loader.get(pyfunc.MAIN) == "mlflow.pytorch" and pyfunc.CODE not in loader and program.exists()
        if not is_ours or "class_names" not in metadata or said.signature is None:
            raise DataError(f"model {model}: none of this pipeline's; `mlflow ui` shows what it is")
        loaded = pyfunc.load_model(place, model_config={"device": device})
    shape = said.signature.inputs.inputs[0].shape[1:]
    return Predictor(shape, tuple(metadata["class_names"]), metadata.get("resize"), loaded.predict)


def log(client: MlflowClient, runs: Pair, folder: Path, md5: str) -> None:
    """The packaged model is an output of the child and of the parent; a model that was half uploaded is completed."""
    from mlflow.models import Model

    own = client.search_logged_models([runs.experiment], f"source_run_id = '{runs.child}'", max_results=1)
    model = own[0] if own else client.create_logged_model(runs.experiment, "model", runs.child, tags={MD5: md5})
    if model.status != LoggedModelStatus.READY:
        said = Model.load(str(folder))
        said.model_id, said.run_id = model.model_id, runs.child
        said.save(str(folder / "MLmodel"))
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    for run in (runs.child, runs.parent):
        put_out(client, run, model.model_id)


def put_out(client: MlflowClient, run: str, model: str) -> None:
    """`model` is among the outputs of `run`, once."""
    outputs = client.get_run(run).outputs
    if model not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run, [LoggedModelOutput(model, 0)])


def of_weights(client: MlflowClient, experiment: str, md5: str) -> str | None:
    """The id of the oldest model with these weights."""
    order = [{"field_name": "creation_time", "ascending": True}]
    found = client.search_logged_models([experiment], f"tags.`{MD5}` = '{md5}'", max_results=1, order_by=order)
    return found[0].model_id if found else None
