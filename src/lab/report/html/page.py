"""reports/report.html: an experiment on one page, which needs no network and no JavaScript.

The page is an output of DVC, so its content follows from what visualize reads: it shows the chosen
parameters, and the MD5 of its dependencies. It has no id or time of this run, no absolute path, and
not the current commit, which the page itself may be part of. Two things on it are not
dependencies:

- The baseline, which baseline.py finds in git's history. Later commits do not change it. The page
  names its commit, so it stays true if DVC restores it in another branch.
- The processor and the packages. `retrace verify` treats another processor as another kind of
  device, where results differ in the last digits; requirements.txt, which pins the packages, is no
  dependency either. The training device is the tag `retrace.device` of the train run.

Class names, file names, parameters and commit messages may hold any text: the template escapes
all, and a policy in the page lets a browser run the page's own script only, and load nothing.
"""

import hashlib
import platform
import sys
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lab import params, paths
from lab.evaluation import metrics
from lab.report.figures import FIGURES
from lab.report.html import baseline, curves, formatting, images, predictions, suspicious
from lab.report.html.baseline import Baseline
from lab.report.results import Results
from lab.training.records import diagnosis
from retrace.compare import svg
from retrace.pipeline import params_yaml
from retrace.system import files
from retrace.system.redaction import redacted_all

FOLDER = Path(__file__).parent
DRAWN = {  # by the page itself, not as PNG
    "learning_curves",
    "learning_rate",
    "confusion_matrix",
    "precision_recall",
    "mistakes",
    "thresholds",
    "tsne",
}
TITLES = {"roc": "ROC", "grad_cam": "Grad-CAM"}
PACKAGES = ("torch", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Provenance:
    """The inputs of an experiment.

    They are params.yaml's values, the MD5s of visualize's dependencies by path, the network's
    layers as text, and the processor.
    """

    values: params_yaml.Values
    deps: Mapping[str, str]
    layers: str
    machine: str


@dataclass(frozen=True)
class SummaryMetric:
    """A metric that experiments are compared by."""

    name: str
    value: str
    note: str
    change: str  # since the baseline; empty if there is none


def save(path: Path, results: Results, logged: Mapping[str, float], inputs: Provenance) -> None:
    """Write the page.

    `logged` are the metrics that the figures logged; the figures are in reports/figures/.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "metric": formatting.metric,
        "change": formatting.change,
        "value": formatting.value,
        "svg": svg.render,
    }
    text = templates.get_template("page.html").render(content(results, logged, inputs))
    with files.atomic(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def content(results: Results, logged: Mapping[str, float], inputs: Provenance) -> dict[str, Any]:
    """Return the template's values; what an experiment does not have is None or empty."""
    by_stage = _by_stage(inputs.values)
    chosen = {key: value for own in by_stage.values() for key, value in own.items()}
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    before = baseline.find(chosen, results.metrics)
    changed = _changed(before, chosen, results)
    other_data = any(each.name.startswith("dataset") for each in changed.get("params") or ())
    settings = inputs.values["figures"]
    return {
        "data": results.samples,
        "chosen": chosen,
        "by_stage": by_stage,
        "flags": formatting.flags(chosen),
        "deps": inputs.deps,
        "layers": inputs.layers,
        "machine": inputs.machine,
        "versions": _versions(),
        "n_steps": int(results.steps[-1]["step"]),
        "diagnosis": diagnosis(results.history),
        "metrics": results.metrics,
        "summary": summary(results, logged, before.metrics if before and not other_data else {}),
        "before": before,
        "changed": changed,
        "other_data": other_data,
        "kept": curves.kept_epoch(results),
        "learning": curves.learning(results),
        "history": curves.thinned(results.history),
        "classes": predictions.classes(results),
        "matrix": predictions.matrix(results),
        "confusions": predictions.confusions(results),
        "wrong": predictions.worst(results, **settings["mistakes"]),
        "suspicious": suspicious.load(results.samples),
        "plot": predictions.tsne_plot(results, **settings["tsne"]),
        "recall": curves.precision_recall(results, **settings["precision_recall"]),
        "thresholds": predictions.thresholds(results, **settings["thresholds"]),
        "figures": _figures(),
        "script": script,
        "script_hash": b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _versions() -> dict[str, str]:
    return {"Python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def summary(
    results: Results, logged: Mapping[str, float], before: Mapping[str, float]
) -> list[SummaryMetric]:
    """Return the metrics that experiments are compared by, and their change since `before`."""
    n = len(results.samples)
    accuracy = results.metrics["test_accuracy"]
    wrong = predictions.n_wrong(results)
    low, high = metrics.interval(accuracy, n)
    notes = {
        "test_accuracy": f"{wrong:,} of {n:,} misclassified; 95 % interval {low:.2%} to {high:.2%}",
        "test_loss": "cross-entropy, nats",
        "test_f1": "mean over the classes",
        "test_calibration_error": "mean gap between confidence and accuracy",
        "val_accuracy": curves.kept_epoch(results),
        "train_accuracy": "mean over that epoch",
    }
    now = {**results.metrics, **logged}
    return [
        SummaryMetric(
            formatting.NAMES.get(name, name),
            formatting.metric(now[name], name),
            note,
            formatting.change(baseline.Change(name, before[name], now[name]))
            if name in before
            else "",
        )
        for name, note in notes.items()
        if name in now
    ]


def _by_stage(values: params_yaml.Values) -> dict[str, dict[str, Any]]:
    """Return the chosen parameters by the first stage that reads them, without secrets."""
    left = redacted_all(params.chosen(values))
    by_stage = {}
    for name, stage in params.STAGES.items():
        by_stage[name] = {key: left.pop(key) for key in params.chosen(values, stage) if key in left}
    return {name: own for name, own in by_stage.items() if own}


def _changed(
    before: Baseline | None, chosen: Mapping[str, Any], results: Results
) -> dict[str, Any]:
    """Return what differs from the baseline; parameters are None if it has none to compare."""
    if before is None:
        return {}
    changes = None if before.params is None else baseline.changes(before.params, chosen)
    return {"params": changes, "metrics": baseline.changes(before.metrics, results.metrics)}


def _figures() -> list[tuple[str, str, str]]:
    """Return title, caption and content of the figures that the page embeds as PNG."""
    embedded = []
    for name, draw in FIGURES.items():
        file = paths.FIGURES / f"{name}.png"
        if name not in DRAWN and file.exists():
            docstring = sys.modules[draw.__module__].__doc__ or name
            caption = " ".join(docstring.split("\n\n")[0].split())
            title = TITLES.get(name, name.replace("_", " ").capitalize())
            embedded.append((title, caption, images.file(file)))
    return embedded
