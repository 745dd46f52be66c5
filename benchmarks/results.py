"""Measure the test accuracy and the training time of every recipe.

Run complete experiments, `dvc exp run --temp`, which remain in DVC and MLflow. What MLflow already
has with the same parameters, whatever the code, is not run again, so an interrupted call can be
continued. The table is made from MLflow only. `--write` writes it to docs/recipes.md, the numbers
to benchmarks/results.json and the recipes' headers, and two figures to docs/.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import Run

from lab import params, recipes
from lab.params import Values
from retrace import errors
from retrace.errors import RetraceError
from retrace.pipeline import git
from retrace.system import files

SEEDS: dict[str, tuple[int, ...]] = dict.fromkeys(
    ("cifar10_airbench", "cifar10_v3", "cifar10_v3_fast"), (0,)
)
OTHER_SEEDS = (0, 1, 2)  # for a recipe that is not in SEEDS

NEEDS = {  # run only if --only names them
    "cifar10_vgg16": "torchvision's weights for VGG16",
    "images_finetune": "images in data/images",
}

TUTORIAL = {  # the accuracy given in the text, or measured with the tutorial's own program
    "mnist_tutorial": "no number; measured 96.9, 97.3, 98.1 %",
    "circles_linear": "below 50 %; measured 45.5 %",
    "circles_relu": "no number; measured 95 to 99 %",
    "fashion_softmax": "above 70 %; measured 82.4 %",
    "cifar10_v3": "about 88 %",
}

TOP = (
    "recipe",
    "n",
    "epochs",
    "test accuracy: mean (min..max)",
    "balanced",
    "training, s",
    "on",
    "the tutorial",
)
PAGE = Path("docs/recipes.md")
RECORD = Path("benchmarks/results.json")
SHOWN = {
    "circles_linear": "decision_boundary",
    "circles_relu": "decision_boundary",
}  # figures in docs/
CODE = ("src", "stages", "dvc.yaml", "params.yaml", "recipes")
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"


@dataclass(frozen=True)
class Result:
    """The result of a recipe with one seed, as recorded in MLflow."""

    seed: int
    epochs: int
    test_accuracy: float  # 0..1, like test_recall
    test_recall: float  # mean over the classes: balanced accuracy
    train_s: float | None  # including validation; None if the network came from DVC's cache
    device: str
    commit: str | None
    run_id: str  # the parent's


def experiments_of(recipe: str) -> list[Values]:
    """Return the recipe's parameters, once per seed."""
    values = recipes.load(recipe).values
    return [values | {"seed": seed} for seed in SEEDS.get(recipe, OTHER_SEEDS)]


def store() -> MlflowClient:
    return MlflowClient(
        os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"
    )


def found(client: MlflowClient, values: Values) -> Run | None:
    """Return the newest parent run with exactly these parameters that finished and was tested."""
    experiment = client.get_experiment_by_name(values["dataset"])
    if experiment is None:
        return None
    same = (
        f"params.model = '{values['model']}' and params.seed = '{values['seed']}' "
        "and attributes.status = 'FINISHED'"
    )
    runs = client.search_runs([experiment.experiment_id], same, order_by=["start_time DESC"])
    wanted = {name: str(value) for name, value in params.chosen(values).items()}
    tested = (
        run for run in runs if "test_accuracy" in run.data.metrics and run.data.params == wanted
    )
    return next((run for run in tested if "mlflow.parentRunId" not in run.data.tags), None)


def result_of(client: MlflowClient, parent: Run) -> Result:
    """Return the result in a parent run and its newest train run."""
    its_training = (
        f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' and tags.`retrace.stage` = 'train'"
    )
    trained = client.search_runs(
        [parent.info.experiment_id], its_training, max_results=1, order_by=["start_time DESC"]
    )
    return Result(
        seed=int(parent.data.params["seed"]),
        epochs=int(parent.data.params["epochs"]),
        test_accuracy=parent.data.metrics["test_accuracy"],
        test_recall=parent.data.metrics["test_recall"],
        train_s=trained[0].data.metrics.get("train_s") if trained else None,
        device=trained[0].data.tags.get("retrace.device", "?") if trained else "?",
        commit=parent.data.tags.get("mlflow.source.git.commit"),
        run_id=parent.info.run_id,
    )


def run(recipe: str, values: Values) -> int:
    """Run the experiment; return DVC's exit code.

    With `--force`, because results from DVC's cache have no training time.
    """
    name = f"result-{recipe}-{values['seed']}"
    subprocess.run(["dvc", "exp", "remove", "--quiet", name], check=False, capture_output=True)
    settings = [f"--set-param={key}={value}" for key, value in recipes.changes(values).items()]
    command = ["dvc", "exp", "run", "--quiet", "--temp", "--force", "--name", name, *settings]
    return subprocess.run(command, check=False).returncode


def run_missing(client: MlflowClient, names: list[str], *, again: bool) -> list[str]:
    """Run every seed of the recipes `names` that MLflow does not have; return what failed."""
    failed = []
    for recipe in names:
        for values in experiments_of(recipe):
            name = f"{recipe}, seed {values['seed']}"
            if not again and found(client, values):
                print(f"{name}: MLflow has it")
                continue
            print(f"{name}: running", flush=True)
            if (code := run(recipe, values)) != 0:
                failed.append(f"{name}: DVC exited with {code}")
            elif not found(client, values):
                failed.append(f"{name}: MLflow does not have the run")
    return failed


def measured(client: MlflowClient) -> dict[str, list[Result]]:
    """Return each recipe's results in MLflow, one per seed."""
    results = {}
    for recipe in recipes.titles():
        runs = [found(client, values) for values in experiments_of(recipe)]
        results[recipe] = [result_of(client, run) for run in runs if run]
    return results


def reached(each: list[Result]) -> str:
    """Return mean and range of the test accuracy."""
    accuracies = [100 * result.test_accuracy for result in each]
    span = f" ({min(accuracies):.2f}..{max(accuracies):.2f})" if len(each) > 1 else ""
    return f"{fmean(accuracies):.2f} %{span}"


def taken(each: list[Result]) -> str:
    """Return the median of the training times in seconds, or "" if none was measured."""
    seconds = [result.train_s for result in each if result.train_s is not None]
    return f"{median(seconds):.1f}" if seconds else ""


def devices(each: list[Result]) -> str:
    return "; ".join(sorted({result.device for result in each}))


def headed(recipe: str, each: list[Result]) -> str:
    """Return a recipe's text with the measured results in its header."""
    takes = f"{taken(each)} s of training (median) on {devices(each)}"
    text = re.sub(r"(?m)^# takes: .*$", f"# takes: {takes}", recipe, count=1)
    return re.sub(
        r"(?m)^# reached: .*$",
        f"# reached: test accuracy {reached(each)}, n = {len(each)}",
        text,
        count=1,
    )


def table(results: dict[str, list[Result]]) -> str:
    """Return a Markdown table, one row per recipe that has results."""
    rows = [TOP, ("---",) * len(TOP)]
    for recipe, each in results.items():
        if not each:
            continue
        rows.append(
            (
                f"`{recipe}`",
                str(len(each)),
                str(each[0].epochs),
                reached(each),
                f"{fmean(100 * result.test_recall for result in each):.2f} %"
                if "imbalanced" in recipe
                else "",
                taken(each),
                devices(each),
                TUTORIAL.get(recipe, ""),
            )
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_table(page: str, new: str) -> str:
    """Return the page with `new` between its marks.

    Raises RetraceError unless the page has exactly one pair of marks.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise RetraceError(
            f"{PAGE}: has not one {BEGIN.strip()} before one {END}; "
            "put them where the table belongs"
        )
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + new + END + rest.partition(END)[2]


def uncommitted() -> str:
    """Return the code files that differ from the last commit."""
    changes = git.run("status", "--porcelain", "--", *CODE).decode()
    return " ".join(line[3:] for line in changes.splitlines())


def with_recorded(results: dict[str, list[Result]]) -> dict[str, list[Result]]:
    """Take a recipe's results from results.json if it has more seeds there than in MLflow.

    They may have been run on another machine.
    """
    had = json.loads(RECORD.read_text(encoding="utf-8"))["results"] if RECORD.exists() else {}
    recorded = {recipe: [Result(**each) for each in had.get(recipe, [])] for recipe in results}
    return {recipe: max(each, recorded[recipe], key=len) for recipe, each in results.items()}


def write(client: MlflowClient, results: dict[str, list[Result]]) -> None:
    """Write the page, the record and the recipes' headers; copy the first seeds' figures."""
    for recipe, figure in SHOWN.items():
        for each in results[recipe][:1]:
            with TemporaryDirectory() as folder:
                downloaded = client.download_artifacts(
                    each.run_id, f"reports/figures/{figure}.png", folder
                )
                with files.atomic(Path(f"docs/{recipe}.png")) as unfinished:
                    shutil.copy(downloaded, unfinished)
    results = with_recorded(results)
    for recipe, each in results.items():
        file = recipes.FOLDER / f"{recipe}.yaml"
        if each:
            with files.atomic(file) as unfinished:
                unfinished.write_text(
                    headed(file.read_text(encoding="utf-8"), each), encoding="utf-8"
                )
    machine = {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }
    numbers = {
        recipe: [asdict(result) for result in each] for recipe, each in results.items() if each
    }
    with files.atomic(RECORD) as unfinished:
        unfinished.write_text(
            json.dumps({"written_on": machine, "results": numbers}, indent=2) + "\n"
        )
    with files.atomic(PAGE) as unfinished:
        unfinished.write_text(
            with_table(PAGE.read_text(encoding="utf-8"), table(results)), encoding="utf-8"
        )


def parsed() -> Namespace:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="only these recipes", choices=[*recipes.titles()]
    )
    parser.add_argument("--again", action="store_true", help="also run what MLflow already has")
    parser.add_argument("--list", action="store_true", help="run nothing; list what would be run")
    parser.add_argument(
        "--write", action="store_true", help=f"write {PAGE} and {RECORD} at the end"
    )
    return parser.parse_args()


def main() -> None:
    args = parsed()
    if args.write:
        with_table(PAGE.read_text(encoding="utf-8"), "")  # fails now instead of after hours
    for recipe in [] if args.only else NEEDS:
        print(f"{recipe}: left out, it needs {NEEDS[recipe]}; to run it: --only {recipe}")
    names = args.only or [recipe for recipe in recipes.titles() if recipe not in NEEDS]
    if not args.list and (edited := uncommitted()):
        raise RetraceError(f"commit first, because results name their commit: {edited}")
    client = store()
    if args.list:
        for recipe in names:
            missing = [
                str(v["seed"]) for v in experiments_of(recipe) if args.again or not found(client, v)
            ]
            seeds = f"seeds to run: {', '.join(missing)}" if missing else "MLflow has it all"
            print(f"{recipe}: {seeds}")
        return
    failed = run_missing(client, names, again=args.again)
    results = measured(client)
    print(table(results), end="")
    if args.write:
        write(client, results)
    print(*failed, sep="\n", end="\n" if failed else "", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    errors.run(main)
