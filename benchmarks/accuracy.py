"""Test accuracy and training time of the default recipe: three seeds, with the default learning rate and with 0.01.

Each is a real experiment, `dvc exp run --temp`, and stays in DVC and MLflow. About seven minutes on two cores.
"""

import os
import subprocess
from statistics import fmean

import mlflow

SEEDS = (0, 1, 2)
RATES = ("0.005", "0.01")


def measured(rate: str, seed: int) -> tuple[float, float]:
    """Test accuracy (0..1) and seconds of training, validation included."""
    name = f"accuracy-{rate}-{seed}"
    subprocess.run(["dvc", "exp", "remove", "--quiet", name], check=False, capture_output=True)
    settings = ["--set-param", f"lr={rate}", "--set-param", f"seed={seed}"]
    command = ["dvc", "exp", "run", "--quiet", "--temp", "--force", "--name", name, *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("mnist")
    assert experiment is not None
    found = client.search_runs(
        [experiment.experiment_id], f"tags.`dvc.exp_name` = '{name}'", order_by=["start_time DESC"], max_results=20
    )
    latest = {run.info.run_name: run.data.metrics for run in reversed(found)}
    return latest["evaluate"]["test_accuracy"], latest["train"]["train_s"]


def main() -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("lr      n  test accuracy: mean, each     training, s")
    for rate in RATES:
        accuracies, seconds = zip(*(measured(rate, seed) for seed in SEEDS), strict=True)
        each = " ".join(f"{accuracy:.2%}" for accuracy in accuracies)
        timed = " ".join(f"{second:.1f}" for second in seconds)
        print(f"{rate:<6}  {len(SEEDS)}  {fmean(accuracies):.3%}: {each}  {timed}")


if __name__ == "__main__":
    main()
