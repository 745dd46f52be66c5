"""The trained network as MLflow serves it: a pt2 program from raw inputs to probabilities."""

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from retrace.errors import DataError
from retrace.store import backend

if TYPE_CHECKING:
    from lab.serving.prediction import Device, Predictor

PT2 = "data/model.pt2"
REQUIREMENTS = ("torch", "numpy")


def package(weights: Path, config_file: Path, folder: Path) -> None:
    """Export the network to `folder` in MLflow's format: the entry point `retrace.packagers`.

    The model is a pt2 program with signature, input example and requirements. Needs the code that
    the network was built with. Raises DataError if the weights do not fit it.
    """
    import torch
    from mlflow import pytorch
    from mlflow.models import infer_signature

    from lab.models import classifier

    model, config = classifier.load(weights, config_file)
    served = classifier.Served(model).eval().to(memory_format=torch.contiguous_format)
    example = classifier.example(config, 2).numpy()  # two: one would fix the batch size
    with torch.inference_mode():
        signature = infer_signature(example, served(torch.from_numpy(example)).numpy())
    pytorch.save_model(
        served,
        str(folder),
        signature=signature,
        input_example=example,
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        metadata={"class_names": list(config.class_names), "resize": config.resize},
    )


def load(model: str, device: "Device") -> "Predictor":
    """Load the model with this id in MLflow, as a server does: only MLflow's own code, no pickle.

    Raises DataError if it is not a model of this pipeline.
    """
    from mlflow import artifacts, pyfunc
    from mlflow.models import Model

    from lab.serving.prediction import Predictor

    with backend.as_default_store(), tempfile.TemporaryDirectory() as folder:
        path = artifacts.download_artifacts(artifact_uri=f"models:/{model}", dst_path=folder)
        config = Model.load(path)
        loader = config.flavors.get(pyfunc.FLAVOR_NAME, {})
        metadata = config.metadata or {}
        is_ours = (
            loader.get(pyfunc.MAIN) == "mlflow.pytorch"
            and pyfunc.CODE not in loader
            and Path(path, PT2).exists()
        )
        if not is_ours or "class_names" not in metadata or config.signature is None:
            raise DataError(
                f"model {model}: was not created by this pipeline; `retrace ui` shows it"
            )
        loaded = pyfunc.load_model(path, model_config={"device": device})
    shape = config.signature.inputs.inputs[0].shape[1:]
    return Predictor(shape, tuple(metadata["class_names"]), metadata.get("resize"), loaded.predict)
