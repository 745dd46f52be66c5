"""Measure the errors of the network on both parts of the data."""

import json
from pathlib import Path

import numpy as np
import yaml

(w1, b1), (w2, b2) = json.loads(Path("model.json").read_text())
metrics = {}
for part in ("train", "validation"):
    rows = np.loadtxt(f"data/{part}.csv", delimiter=",", skiprows=1)
    actual = rows[:, -1]
    predicted = 100 * (np.maximum(10 * rows[:, :-1] @ w1 + b1, 0) @ w2 + b2)[:, 0]
    errors = predicted - actual
    r2 = 1 - (errors**2).mean() / actual.var()
    metrics[part] = {"mae": float(abs(errors).mean()), "r2": float(r2)}
    print(f"{part}: mean absolute error {metrics[part]['mae']:.1f}, R² {r2:.2f}")
pairs = np.column_stack([actual, predicted])
np.savetxt("predictions.csv", pairs, "%.6g", ",", header="actual,predicted", comments="")
Path("metrics.yaml").write_text(yaml.safe_dump(metrics))
