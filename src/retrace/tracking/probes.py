"""What was measured of a served model, as a run of its own beside those that made the model."""

import time
from collections.abc import Callable, Mapping

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric, Param

from retrace import machine

PROBED = "retrace.probed"  # of such a run: MLflow's id of the model

Probabilities = Callable[[np.ndarray], np.ndarray]


def log(client: MlflowClient, model: LoggedModel, asked: Mapping[str, int], measured: Mapping[str, float]) -> str:
    """The id of a finished run, below the experiment that made the model, with what was asked and measured; the model
    has the same figures.
    """
    above = client.get_run(str(model.source_run_id)).data.tags.get("mlflow.parentRunId")
    tags = {PROBED: model.model_id, "retrace.machine": machine.processor(), "mlflow.user": machine.user()}
    tags |= {"mlflow.parentRunId": above} if above else {}
    now = int(time.time() * 1000)
    run = client.create_run(model.experiment_id, now, tags, "probe").info.run_id
    params = [Param(name, str(value)) for name, value in asked.items()]
    figures = [Metric(name, value, now, 0, model.model_id, None, None, run) for name, value in measured.items()]
    client.log_batch(run, metrics=figures, params=params)
    client.set_terminated(run, "FINISHED")
    return run
