"""Split scikit-learn's diabetes data: ten measurements, and how far the disease is a year later."""

from pathlib import Path

import numpy as np
import yaml
from sklearn.datasets import load_diabetes

params = yaml.safe_load(Path("params.yaml").read_text())
table = load_diabetes()
rows = np.column_stack([table.data, table.target])
np.random.default_rng(params["seed"]).shuffle(rows)
n_train = round(len(rows) * (1 - params["validation_share"]))
Path("data").mkdir(exist_ok=True)
for part, own in {"train": rows[:n_train], "validation": rows[n_train:]}.items():
    header = ",".join([*table.feature_names, "target"])
    np.savetxt(f"data/{part}.csv", own, "%.6g", ",", header=header, comments="")
    print(f"{part}: {len(own)} patients")
