"""Views of MLflow's page: experiments with the columns that differ, the best first, and curves.

MLflow keeps a view as a tag of its experiment, and lists it under "Views". A version of MLflow that
does not know such views ignores the tag and the end of the address, and shows its usual table.
"""

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from mlflow import MlflowClient
from mlflow.entities import Run

from retrace import event_log
from retrace.pipeline.metrics import is_minimized
from retrace.store import backend, filters
from retrace.store.names import SYSTEM

TAG = "mlflow.sharedViewState."  # with the view's key appended
EXPERIMENTS, CURVES = "retrace-experiments", "retrace-curves"  # keys of the views
TITLES = {EXPERIMENTS: "Experiments, the best first", CURVES: "Curves by experiment"}
MAX_RUNS = 1000  # the newest, from which the columns are chosen
MAX_METRICS = 8  # columns
MAX_PARAMS = 12
MAX_CURVES = 12
MAX_GROUPED = 3  # parameters that name a curve


def newest(client: MlflowClient) -> str | None:
    """Return the MLflow experiment that retrace added a run to last; None if there is none."""
    runs = client.search_runs(
        backend.experiments(client), filters.exists("retrace.key"), max_results=1
    )
    return runs[0].info.experiment_id if runs else None


def save(client: MlflowClient, experiment: str, primary: str | None = None) -> dict[str, str]:
    """Save the views of an MLflow experiment; return the address of each by title.

    An address is relative to MLflow's page. `primary` is the metric by which experiments are
    ranked; without it, the newest are first.
    """
    states = {
        EXPERIMENTS: _experiments(_newest_runs(client, experiment, "retrace.key"), primary),
        CURVES: _curves(client, _newest_runs(client, experiment, "retrace.stage")),
    }
    saved: dict[str, str] = {}
    for key, state in states.items():
        if state is None:
            continue
        now = event_log.now()
        packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
        view = {"name": TITLES[key], "createdAt": now, "updatedAt": now}
        view |= {"state": f"deflate;{packed}"}
        client.set_experiment_tag(experiment, f"{TAG}{key}", json.dumps(view))
        mode = {"compareRunsMode": "CHART"} if key == CURVES else {}
        query = urlencode({"viewStateShareKey": key} | mode)
        saved[TITLES[key]] = f"#/experiments/{experiment}/runs?{query}"
    return saved


def _newest_runs(client: MlflowClient, experiment: str, tag: str) -> list[Run]:
    runs = backend.search_runs(client, [experiment], filters.exists(tag))
    return list(islice(runs, MAX_RUNS))


def _experiments(runs: Sequence[Run], primary: str | None) -> dict[str, Any]:
    """Return the state of the table of experiments."""
    counts = Counter(key for run in runs for key in run.data.metrics if not key.startswith(SYSTEM))
    metrics = [key for key, _ in counts.most_common() if key != primary]
    metrics = [primary, *metrics] if primary in counts else metrics
    columns = _columns("metrics", metrics[:MAX_METRICS])
    columns += _columns("params", _differing(runs)[:MAX_PARAMS])
    state: dict[str, Any] = {
        "searchFilter": filters.exists("retrace.key"),
        "selectedColumns": columns,
    }
    if primary in counts:
        state["orderByKey"] = f"metrics.`{primary}`"
        state["orderByAsc"] = is_minimized(str(primary))
    return state


def _curves(client: MlflowClient, runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return the state of the charts of a stage's metrics by step; None without such metrics."""
    by_stage: dict[str, list[Run]] = {}
    for run in runs:
        if run.info.status == "FINISHED":
            by_stage.setdefault(run.data.tags["retrace.stage"], []).append(run)
    curves = {stage: _by_step(client, own[0]) for stage, own in by_stage.items()}
    stage = max(curves, key=lambda stage: len(curves[stage]), default=None)
    if stage is None or not curves[stage]:
        return None
    grouped = _differing(by_stage[stage])[:MAX_GROUPED]
    keys = [{"mode": "param", "groupByData": name} for name in grouped]
    section = "retrace-curves"
    return {
        "searchFilter": filters.equals(filters.tag("retrace.stage"), stage),
        # Ordered by time, MLflow adds the parent runs, whose summary would look like a first step.
        "orderByKey": f"metrics.`{curves[stage][0]}`",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys} if keys else None,
        "compareRunSections": [
            {"uuid": section, "name": stage, "display": True, "isReordered": False}
            | {"deleted": False, "isGenerated": False}
        ],
        "compareRunCharts": [_chart(section, metric) for metric in curves[stage][:MAX_CURVES]],
    }


def _chart(section: str, metric: str) -> dict[str, Any]:
    return {
        "uuid": f"{section}-{metric}",
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "metricSectionId": section,
        "runsCountToCompare": 10,
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "deleted": False,
        "isGenerated": False,
    }


def _by_step(client: MlflowClient, run: Run) -> list[str]:
    """Return the metrics of a run that have several steps."""
    own = [key for key in run.data.metrics if not key.startswith(SYSTEM)]
    return sorted(key for key in own if len(client.get_metric_history(run.info.run_id, key)) > 1)


def _differing(runs: Iterable[Run]) -> list[str]:
    """Return the parameters of which the runs have several values, the most varied first."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run.data.params.items():
            values.setdefault(name, set()).add(value)
    varied = {name: len(known) for name, known in values.items() if len(known) > 1}
    return sorted(varied, key=lambda name: (-varied[name], name))


def _columns(kind: str, names: Iterable[str]) -> list[str]:
    return [f"{kind}.`{name}`" for name in names]
