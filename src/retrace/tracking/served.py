"""The trained network as MLflow serves it: a pt2 program from raw inputs to probabilities."""

import shutil
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus

from retrace.tracking.runs import Pair

REQUIREMENTS = ("torch", "numpy")
IMPORTS = ("torch", "torch._dynamo", "torch.export")  # most of the time that the first packaging takes
MD5 = "retrace.md5"  # of the weights, by which a model is found


def rehearse() -> None:
    """The next packaging takes a tenth of the time that the first would: what torch imports and compiles only when it
    is used is there.
    """
    import torch
    from mlflow import pytorch

    with TemporaryDirectory() as folder:
        example = torch.zeros(2, 1).numpy()
        with suppress(Exception):  # `package` meets it again, and tells
            pytorch.save_model(torch.nn.Linear(1, 1).eval(), folder, input_example=example, pip_requirements=["torch"])


def package(weights: Path, card: Path, folder: Path) -> None:
    """`folder` holds the model in MLflow's format. Needs torch, and the code that the network was built with."""
    import torch
    from mlflow import pytorch
    from mlflow.models import infer_signature

    from retrace import classifier

    model, said = classifier.load(weights, card)
    served = classifier.Served(model).eval().to(memory_format=torch.contiguous_format)
    example = classifier.example(said, 2).numpy()  # two: a batch of one would fix the batch size
    with torch.inference_mode():
        signature = infer_signature(example, served(torch.from_numpy(example)).numpy())
    unfinished = folder.with_name(".model")
    for left in (folder, unfinished):  # by an upload that was killed
        shutil.rmtree(left, ignore_errors=True)
    pytorch.save_model(
        served,
        str(unfinished),
        signature=signature,
        input_example=example,
        pip_requirements=[f"{package}=={version(package)}" for package in REQUIREMENTS],
        metadata={"class_names": list(said.class_names)},
    )
    unfinished.replace(folder)


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
