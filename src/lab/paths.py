"""Paths of all files that the pipeline reads or writes, relative to the folder in which it runs.

Under `dvc exp run --temp` and in the queue that folder is a temporary copy. What must outlive it
(event logs, checkpoints, the MLflow store) goes below `files.root()` instead.
"""

from pathlib import Path

PARAMS = Path("params.yaml")
GRAPH = Path("dvc.yaml")

IMAGES = Path("data/images")
RAW = Path("data/raw")
PROCESSED = Path("data/processed")
TRAIN = PROCESSED / "train.safetensors"
VALIDATION = PROCESSED / "validation.safetensors"
TEST = PROCESSED / "test.safetensors"

WEIGHTS = Path("models/model.safetensors")
MODEL_CONFIG = Path("models/model.json")

HISTORY = Path("reports/history.csv")
STEPS = Path("reports/steps.csv")
BATCH = Path("reports/batch.safetensors")
METRICS = Path("reports/metrics.json")
CLASSES = Path("reports/classes.csv")
CONFUSION = Path("reports/confusion.csv")
SUSPICIOUS = Path("reports/suspicious.csv")
PREDICTIONS = Path("reports/predictions.safetensors")
PREDICTION_TABLE = Path("reports/predictions.csv")
VIEWS = Path("reports/views.safetensors")
SUMMARY = Path("reports/summary.txt")
FIGURES = Path("reports/figures")
REPORT = Path("reports/report.html")
