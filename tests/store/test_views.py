"""Views of MLflow's page: as its Share button writes them, with the columns that differ."""

import base64
import json
import zlib
from typing import Any

import mlflow
import pytest
from mlflow.entities import Metric, Param

from retrace.store import backend, views

EXPERIMENTS, CURVES = views.TITLES[views.EXPERIMENTS], views.TITLES[views.CURVES]


@pytest.fixture
def experiment(store: mlflow.MlflowClient) -> str:
    """Return an MLflow experiment with three experiments of two stages."""
    experiment = backend.experiment_of(store, "any")
    for n, lr in enumerate(("0.1", "0.2", "0.3")):
        add(
            store, experiment, {"retrace.key": str(n)}, {"lr": lr, "seed": "0"}, {"b": 1, "rmse": n}
        )
        add(store, experiment, {"retrace.stage": "fit"}, {"lr": lr}, {"loss": n}, n_steps=3)
        add(store, experiment, {"retrace.stage": "test"}, {}, {"rmse": n})
    return experiment


def add(
    client: mlflow.MlflowClient,
    experiment: str,
    tags: dict[str, str],
    params: dict[str, str],
    metrics: dict[str, float],
    n_steps: int = 1,
) -> None:
    run = client.create_run(experiment, tags=tags).info.run_id
    points = [
        Metric(key, value, 1, step) for key, value in metrics.items() for step in range(n_steps)
    ]
    client.log_batch(run, points, [Param(*param) for param in params.items()])
    client.set_terminated(run)


def state(client: mlflow.MlflowClient, experiment: str, key: str) -> dict[str, Any]:
    """Return a view as MLflow's page reads it."""
    view = json.loads(client.get_experiment(experiment).tags[f"mlflow.sharedViewState.{key}"])
    assert isinstance(view["name"], str)
    assert isinstance(view["createdAt"], int)
    form, _, packed = view["state"].partition(";")
    assert form == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_experiments_have_the_best_first(store: mlflow.MlflowClient, experiment: str) -> None:
    assert views.newest(store) == experiment
    saved = views.save(store, experiment, "rmse")
    assert saved[EXPERIMENTS].endswith("/runs?viewStateShareKey=retrace-experiments")
    table = state(store, experiment, "retrace-experiments")
    assert table["selectedColumns"] == ["metrics.`rmse`", "metrics.`b`", "params.`lr`"]
    assert (table["orderByKey"], table["orderByAsc"]) == ("metrics.`rmse`", True)
    found = store.search_runs([experiment], table["searchFilter"], order_by=["metrics.rmse ASC"])
    assert [run.data.metrics["rmse"] for run in found] == [0, 1, 2]


def test_curves_are_of_one_stage(store: mlflow.MlflowClient, experiment: str) -> None:
    saved = views.save(store, experiment)
    assert saved[CURVES].endswith("/runs?viewStateShareKey=retrace-curves&compareRunsMode=CHART")
    charts = state(store, experiment, "retrace-curves")
    assert [chart["metricKey"] for chart in charts["compareRunCharts"]] == ["loss"]
    assert charts["groupBy"]["groupByKeys"] == [{"mode": "param", "groupByData": "lr"}]
    assert len(store.search_runs([experiment], charts["searchFilter"])) == 3
    assert "orderByKey" not in state(store, experiment, "retrace-experiments")


def test_store_without_curves(store: mlflow.MlflowClient) -> None:
    assert views.newest(store) is None
    experiment = backend.experiment_of(store, "any")
    add(store, experiment, {"retrace.key": "k"}, {"lr": "0.1"}, {})
    assert views.save(store, experiment, "rmse").keys() == {EXPERIMENTS}
    table = state(store, experiment, "retrace-experiments")
    assert table["selectedColumns"] == []
    assert "orderByKey" not in table
