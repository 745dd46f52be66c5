"""Train a network with one hidden layer. MLflow's autolog writes a run of its own."""

import json
import tomllib
from pathlib import Path

import mlflow
import numpy as np
import yaml
from sklearn.neural_network import MLPRegressor

mlflow.sklearn.autolog(log_models=False, log_datasets=False)
params = tomllib.loads(Path("network.toml").read_text())
rows = np.loadtxt("data/train.csv", delimiter=",", skiprows=1)
network = MLPRegressor(
    hidden_layer_sizes=[params["width"]],
    learning_rate_init=params["lr"],
    max_iter=params["epochs"],
    random_state=yaml.safe_load(Path("params.yaml").read_text())["seed"],
)
network.fit(10 * rows[:, :-1], rows[:, -1] / 100)
layers = zip(network.coefs_, network.intercepts_, strict=True)
Path("model.json").write_text(json.dumps([[w.tolist(), b.tolist()] for w, b in layers]))
lines = [f"{epoch},{loss}" for epoch, loss in enumerate(network.loss_curve_)]
Path("loss.csv").write_text("\n".join(["epoch,loss", *lines, ""]))
