"""Class names of any characters through all five stages: files, MLflow, figures and the page."""

import csv
import html
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from conftest import enter, follow_here
from images import encoded, plain, put
from repository import stage

from lab import paths
from lab.data import storage

NAMES = [
    "a/b\\c",
    "../..",
    ".hidden",
    "_under",
    "two\nlines\r",
    "\ttab , comma; \"quotes\" 'single'",
    "100 % {x} ${y} %s",
    "$\\frac{1}{$",
    "<b>&amp;</b><script>alert(1)</script>",
    "Käse 猫🐈 \u202eright",
    "\x1b[31mred\x07",
    "x" * 300,
    "=1+1",
    "-1",
    "null",
]
N = 6  # images of a class
SMALL = {
    "dataset: mnist": "dataset: image_csv",
    "epochs: 5": "epochs: 1",
    "threads: 2": "threads: 1",
    "device: auto": "device: cpu",
    "precision: auto": "precision: float32",
    "model: cnn": "model: softmax",
    "near_duplicates: 0": "near_duplicates: 4",
    "batch_size: 128": "batch_size: 16",
}


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Iterator[mlflow.MlflowClient]:
    """Run the five stages on images with these classes; return a client of their store."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("names")
        enter(folder, patch)
        follow_here(patch)
        shutil.copy(empty_store, folder / "mlflow.db")
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["path", "label"])
        for number, name in enumerate(NAMES):
            for i in range(N):
                file = f"{number} {i} '\"%$.png"
                put(file, encoded(plain(colour=(16 * number, 255 - 16 * number, 20 * i))))
                writer.writerow([file, name])
        put("labels.csv", text.getvalue().encode())
        values = paths.PARAMS.read_text()
        for old, new in SMALL.items():
            assert values.count(f"\n{old}") == 1, old
            values = values.replace(f"\n{old}", f"\n{new}")
        paths.PARAMS.write_text(
            values.replace("validation_fraction: 0.1", "validation_fraction: 0.4")
        )
        for name in ("download", "preprocess", "train", "evaluate", "visualize"):
            stage(name).main()
        yield mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")


@pytest.mark.slow
def test_names_are_kept_in_files(ran: mlflow.MlflowClient) -> None:
    samples, _ = storage.load(paths.TEST)
    expected = {" ".join(name.split(" ")).strip() for name in NAMES}
    assert set(samples.class_names) == expected
    assert all(Path(samples.name(i)).is_file() for i in range(len(samples)))
    with paths.CLASSES.open(newline="", encoding="utf-8") as file:
        assert {row["name"] for row in csv.DictReader(file)} == expected


@pytest.mark.slow
def test_names_are_escaped_on_the_page(ran: mlflow.MlflowClient) -> None:
    page = paths.REPORT.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert html.escape("<script>alert(1)") in page
    assert len(list(paths.FIGURES.glob("*.png"))) > 8


@pytest.mark.slow
def test_runs_with_any_names_finish(ran: mlflow.MlflowClient) -> None:
    experiment = ran.get_experiment_by_name("image_csv")
    assert experiment is not None
    runs = ran.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    stages = {run.data.tags.get("retrace.stage"): run for run in runs}
    assert "suspicious_labels" in stages["evaluate"].data.metrics
    artifacts = ran.list_artifacts(stages["evaluate"].info.run_id, "reports")
    assert "reports/suspicious.csv" in {each.path for each in artifacts}
