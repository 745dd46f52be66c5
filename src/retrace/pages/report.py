"""reports/report.html: one experiment on one page that needs nothing beside it, neither a network nor JavaScript.

The page is an output of DVC's, so what is on it is decided by what visualize reads: its parameters are all that were
chosen, and of its dependencies it shows the MD5. No run id, no time and no path of this machine is on it, and not the
commit here, which the page itself may be part of. Two things on it are no dependencies:

- what changed since the baseline, which baseline.py finds in git's history, where it stays the same whatever is
  committed later. The page names its commit: taken from DVC's cache in another branch, it still says what is so;
- the processor and the packages that it was made with. `retrace verify` takes another processor for another kind of
  device, whose last digits differ anyway; packages are pinned by requirements.txt, in the graph neither. On which
  device the network was trained is the tag `retrace.device` of the train run.

Names of classes and files, parameters, and messages of commits are anybody's text: the template escapes all, and a
policy in the page lets a browser run no script but the page's own, and load nothing.
"""

import hashlib
import math
import platform
import sys
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from retrace import files, params, params_file, paths
from retrace.figures import FIGURES
from retrace.pages import answers, baseline, curves, images, wording
from retrace.pages.baseline import Baseline
from retrace.redaction import redacted_all
from retrace.reports import Results, diagnosis

FOLDER = Path(__file__).parent
OWN = {"learning_curves", "learning_rate", "confusion_matrix", "precision_recall", "mistakes", "tsne"}  # not as PNG
TITLES = {"roc": "ROC"}
PACKAGES = ("torch", "numpy", "scikit-learn")
CONFIDENCE = 1.96  # standard deviations, for 95 %


@dataclass(frozen=True)
class Made:
    """What an experiment was made of: params.yaml's values, the MD5 of what visualize read, by path, the network's
    layers as text, and the kind of processor.
    """

    values: params_file.Values
    deps: Mapping[str, str]
    layers: str
    machine: str


@dataclass(frozen=True)
class Headline:
    name: str
    value: str
    note: str
    change: str  # since the baseline; empty where there is none


def save(path: Path, results: Results, told: Mapping[str, float], made: Made) -> None:
    """`path` is the page. `told` are the pictures' figures of merit; the pictures are in reports/figures/."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"metric": wording.metric, "change": wording.change, "value": wording.value}
    text = templates.get_template("report.html").render(content(results, told, made))
    with files.atomic(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def content(results: Results, told: Mapping[str, float], made: Made) -> dict[str, Any]:
    """What the template says, by its names for it; what an experiment does not have is None or empty."""
    by_stage = _by_stage(made.values)
    chosen = {key: value for own in by_stage.values() for key, value in own.items()}
    script = (FOLDER / "report.js").read_text(encoding="utf-8")
    before = baseline.found(chosen, results.metrics)
    changed = _changed(before, chosen, results)
    other_data = any(each.name.startswith("dataset") for each in changed.get("params") or ())
    return {
        "data": results.samples,
        "chosen": chosen,
        "by_stage": by_stage,
        "flags": wording.flags(chosen),
        "deps": made.deps,
        "layers": made.layers,
        "machine": made.machine,
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "n_steps": int(results.steps[-1]["step"]),
        "diagnosis": diagnosis(results.history),
        "metrics": results.metrics,
        "headlines": headlines(results, told, before.metrics if before and not other_data else {}),
        "before": before,
        "changed": changed,
        "other_data": other_data,
        "kept": curves.kept(results),
        "learning": curves.learning(results),
        "history": curves.thinned(results.history),
        "classes": answers.classes(results),
        "matrix": answers.matrix(results),
        "confusions": answers.confusions(results),
        "wrong": answers.worst(results, **made.values["figures"]["mistakes"]),
        "map": answers.placed(results, **made.values["figures"]["tsne"]),
        "recall": curves.precision_recall(results, **made.values["figures"]["precision_recall"]),
        "pictures": _pictures(),
        "script": script,
        "script_hash": b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def headlines(results: Results, told: Mapping[str, float], before: Mapping[str, float]) -> list[Headline]:
    """The figures by which experiments are compared, and what they were `before`."""
    n, accuracy = len(results.samples), results.metrics["test_accuracy"]
    wrong = answers.n_wrong(results)
    low, high = interval(accuracy, n)
    notes = {
        "test_accuracy": f"{wrong:,} of {n:,} wrong; 95 % interval {low:.2%} to {high:.2%}",
        "test_loss": "cross-entropy, nats",
        "test_f1": "mean over the classes",
        "test_calibration_error": "how far confidence is from accuracy",
        "val_accuracy": curves.kept(results),
        "train_accuracy": "mean over that epoch",
    }
    now = {**results.metrics, **told}
    return [
        Headline(
            wording.NAMES.get(name, name),
            wording.metric(now[name], name),
            note,
            wording.change(baseline.Change(name, before[name], now[name])) if name in before else "",
        )
        for name, note in notes.items()
        if name in now
    ]


def interval(share: float, n: int) -> tuple[float, float]:
    """Where the true share lies in 95 % of cases, given what it was among `n` samples (Wilson 1927)."""
    squared = CONFIDENCE**2 / n
    middle = (share + squared / 2) / (1 + squared)
    half = CONFIDENCE / (1 + squared) * math.sqrt(share * (1 - share) / n + squared / 4 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _by_stage(values: params_file.Values) -> dict[str, dict[str, Any]]:
    """The chosen parameters by the first stage that reads them, without secrets."""
    left, found = redacted_all(params.chosen(values)), {}
    for name, stage in params.STAGES.items():
        found[name] = {key: left.pop(key) for key in params.chosen(values, stage) if key in left}
    return {name: own for name, own in found.items() if own}


def _changed(before: Baseline | None, chosen: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """Parameters (None where they cannot be compared) and metrics that the baseline has otherwise."""
    if before is None:
        return {}
    known = before.params is not None
    return {
        "params": baseline.changes(before.params or {}, chosen) if known else None,
        "metrics": baseline.changes(before.metrics, results.metrics),
    }


def _pictures() -> list[tuple[str, str, str]]:
    """Title, caption and content of the pictures that are on the page as they are."""
    found = []
    for name, draw in FIGURES.items():
        file = paths.FIGURES / f"{name}.png"
        if name not in OWN and file.exists():
            said = (sys.modules[draw.__module__].__doc__ or name).split("\n\n")[0]
            title = TITLES.get(name, name.replace("_", " ").capitalize())
            found.append((title, " ".join(said.split()), images.file(file)))
    return found
