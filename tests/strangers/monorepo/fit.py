"""Forecast a reading by the mean of those before it, and measure the errors."""

import json
import sys
from pathlib import Path

station = sys.argv[1]
# `window: 3  # comment`, without a package for YAML
window = int(Path("params.yaml").read_text().split(":")[1].split("#")[0])
lines = Path(f"work/parts/{station}.csv").read_text().splitlines()
values = [float(line.split(",")[1]) for line in lines]
means = [sum(values[i - window : i]) / window for i in range(window, len(values))]
errors = [abs(mean - value) for mean, value in zip(means, values[window:], strict=True)]
for folder in ("models", "scores"):
    Path(folder).mkdir(exist_ok=True)
Path(f"models/{station}.json").write_text(json.dumps({"station": station, "next": means[-1]}))
score = {"mae": sum(errors) / len(errors), "worst": {"value": max(errors)}}
Path(f"scores/{station}.json").write_text(json.dumps(score))
