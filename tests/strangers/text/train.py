"""Train a logistic regression on the words of messages, or on all pieces of some letters."""

import json
import math
import sys
from pathlib import Path

import yaml
from dvclive import Live

name = sys.argv[1]
length = int(sys.argv[2])
params = yaml.safe_load(Path("params.yaml").read_text())
weights: dict[str, float] = {}
train, test = (
    [line.split("\t") for line in Path(f"clean/{part}.tsv").read_text().splitlines()]
    for part in ("train", "test")
)


def features(text: str) -> list[str]:
    pieces = [text[start : start + length] for start in range(len(text) - length + 1)]
    return sorted(set(pieces if length else text.split()))


def p_food(text: str) -> float:
    return 1 / (1 + math.exp(-sum(weights.get(feature, 0.0) for feature in features(text))))


with Live(f"live/{name}") as live:
    for _ in range(params["epochs"]):
        loss = 0.0
        for label, text in train:
            error = (label == "food") - p_food(text)
            loss -= math.log(1 - abs(error)) / len(train)
            for feature in features(text):
                weights[feature] = weights.get(feature, 0.0) + params["lr"] * error
        live.log_metric("loss", loss)
        live.next_step()
    predicted = [(label, "food" if p_food(text) > 0.5 else "sport") for label, text in test]
    live.summary["accuracy"] = sum(a == b for a, b in predicted) / len(test)
Path(f"model-{name}.json").write_text(json.dumps(weights))
rows = ["actual,predicted", *map(",".join, predicted), ""]
Path(f"predictions-{name}.csv").write_text("\n".join(rows))
