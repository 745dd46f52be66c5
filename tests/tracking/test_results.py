"""What a stage made, in its event log."""

import json
from pathlib import Path

from retrace import event_log
from retrace.event_log import EventLog
from retrace.pipeline.workspace import Workspace
from retrace.tracking import results

DVC_YAML = "stages: {fit: {cmd: x, metrics: [live/metrics.json]}}"


def test_curves_get_no_point_of_a_metrics_file(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "live").mkdir()
    numbers = {"loss": 0.25, "accuracy": 0.875, "size": 3}
    (tmp_path / "live/metrics.json").write_text(json.dumps(numbers))
    log = EventLog(tmp_path / "log", stage="fit")
    for step, (loss, accuracy) in enumerate([(0.5, 0.875), (0.25, 0.75)]):
        log.metrics({"loss": loss, "accuracy": accuracy}, step)
    workspace = Workspace(tmp_path)
    results.log(log, workspace, workspace.pipeline.stages["fit"])
    points = [
        (event["step"], event["values"])
        for event in event_log.read(log.path)
        if event["kind"] == "metrics"
    ]
    assert points[2:] == [(0, {"size": 3})]
