"""Paths of the pipeline files that the engine reads.

src/lab/paths.py defines the same paths for the lab.
"""

from pathlib import Path

DVC_YAML = Path("dvc.yaml")
PARAMS = Path("params.yaml")

IMAGES = Path("data/images")
TRAIN = Path("data/processed/train.safetensors")
VALIDATION = Path("data/processed/validation.safetensors")
TEST = Path("data/processed/test.safetensors")

WEIGHTS = Path("models/model.safetensors")

HISTORY = Path("reports/history.csv")
METRICS = Path("reports/metrics.json")
CONFUSION = Path("reports/confusion.csv")
FIGURES = Path("reports/figures")
