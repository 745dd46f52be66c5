"""Curves: joined from the tables of plots, else from MLflow, and drawn by quantity."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrace.compare import curves
from retrace.compare import page as pages
from retrace.pipeline.definition import Out, Pipeline, Stage
from retrace.provenance.resolve import NamedExperiment, Resolver

EXPERIMENT = NamedExperiment("one", "an experiment", {}, {}, {}, {})


class Files(Resolver):
    """Resolver with the given files, and a history in MLflow."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self.folder = folder
        self.files = files

    def read_output(self, named: NamedExperiment, path: Path, read: Callable[[Path], Any]) -> Any:
        del named
        if str(path) not in self.files:
            return None
        (self.folder / "object").write_text(self.files[str(path)])
        return read(self.folder / "object")

    def history(self, named: NamedExperiment) -> list[dict[str, float]]:
        del named
        return [{"step": 0, "loss": 1.0}]


def pipeline(*plots: str) -> Pipeline:
    outs = tuple(Out(path, "plot") for path in plots)
    return Pipeline({"fit": Stage("fit", ("x",), outs=outs)})


def history(folder: Path, files: dict[str, str]) -> curves.History:
    (own,) = curves.histories(Files(folder, files), pipeline(*files), [EXPERIMENT])
    return own


def test_tables_are_joined(tmp_path: Path) -> None:
    files = {
        "plots/train/loss.tsv": "step\tloss\n0\t0.5\n1\t0.25\n",
        "plots/eval/loss.tsv": "step\tloss\ttime\n1\t0.75\tnoon\n",
        "acc.json": '[{"step": 1, "acc": 0.5}]',
        "other.csv": "epoch,lr\n0,0.1\n",
        "roc.csv": "fpr,tpr\n0,1\n",
        "broken.json": "{",
        "image.png": "",
    }
    assert history(tmp_path, files) == [
        {"step": 0, "train/loss": 0.5},
        {"step": 1, "train/loss": 0.25, "eval/loss": 0.75, "acc": 0.5},
    ]


def test_mlflow_has_what_no_plot_has(tmp_path: Path) -> None:
    assert history(tmp_path, {"roc.csv": "fpr,tpr\n0,1\n"}) == [{"step": 0, "loss": 1.0}]


@pytest.mark.parametrize(
    ("columns", "dashed"),
    [
        (["train_loss", "val_loss"], {"loss": [True, False]}),
        (["loss", "val_loss"], {"loss": [True, False]}),
        (["train/acc", "eval/acc", "lr"], {"acc": [True, False], "lr": [False]}),
        (["testimony", "training_error"], {"testimony": [False], "error": [True]}),
    ],
)
def test_quantity_has_a_chart(columns: list[str], dashed: dict[str, list[bool]]) -> None:
    rows = [{"epoch": float(i)} | dict.fromkeys(columns, 0.5) for i in range(3)]
    charts = list(pages.charts(["one"], [rows]))
    assert {chart.y.label: [line.dashed for line in chart.lines] for chart in charts} == dashed
    assert {chart.x.label for chart in charts} == {"epoch"}
