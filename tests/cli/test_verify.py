"""`retrace verify`: verdicts, refusals, and real runs that are reproduced."""

import shutil
import signal
import subprocess
import time
from contextlib import suppress
from math import inf, nan
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from mlflow.entities import Run
from repository import Clone

from lab import paths
from retrace.cli import verify
from retrace.errors import RetraceError
from retrace.pipeline import hashing
from retrace.pipeline.definition import Out, Pipeline, Stage
from retrace.pipeline.origin import Origin, check_out_origin
from retrace.pipeline.workspace import Workspace
from retrace.provenance import diff, record, reproduce, restore
from retrace.provenance.diff import Fact, OutputDiff
from retrace.store import run_tags

LOSS = ("train", "val_loss")
EXACT = ("download", "preprocess")


def verdict_of(
    then: Fact | None,
    now: Fact | None,
    tolerance: float | None = None,
    name: tuple[str, str] = LOSS,
) -> str:
    one, other = ({} if value is None else {name: value} for value in (then, now))
    (row,) = diff.compare_facts(one, other, tolerance, EXACT)
    return row.verdict


@pytest.mark.parametrize(
    ("then", "now", "verdict"),
    [
        ("a" * 32, "a" * 32, "same"),
        ("a" * 32, "b" * 32, "differs"),
        ("a" * 32, None, "missing"),
        (None, "a" * 32, "missing"),
        ({1: 0.5, 2: 0.25}, {1: 0.5, 2: 0.25}, "same"),
        ({1: 0.5, 2: 0.25}, {1: 0.5000000000000001, 2: 0.25}, "differs"),
        ({1: 0.5}, {1: 0.5, 2: 0.25}, "missing"),
        ({1: 0.5, "headline": 0.5}, {1: 0.5, "headline": 0.4}, "differs"),
        ({1: nan}, {1: nan}, "same"),
        ({1: nan}, {1: 0.5}, "differs"),
        ({1: 1.7976931348623157e308}, {1: inf}, "same"),
        (None, {1: 0.5}, "missing"),
    ],
)
def test_same_device_needs_equal_values(then: Fact | None, now: Fact | None, verdict: str) -> None:
    assert verdict_of(then, now) == verdict


@pytest.mark.parametrize(
    ("then", "now", "name", "verdict"),
    [
        ({0: 0.9}, {0: 0.9}, ("evaluate", "test_accuracy"), "same"),
        ({0: 0.9}, {0: 0.904}, ("evaluate", "test_accuracy"), "within 0.005"),
        ({0: 0.9}, {0: 0.906}, ("evaluate", "test_accuracy"), "differs"),
        ({0: nan}, {0: 0.9}, ("evaluate", "test_accuracy"), "differs"),
        ({1: 0.7, 2: 0.5}, {1: 0.6, 2: 0.501}, LOSS, "within 0.005"),
        ({1: 0.7, 2: 0.5}, {1: 0.501}, LOSS, "within 0.005"),
        ({1: 0.7, "headline": 0.7}, {1: 0.7, "headline": 0.6}, LOSS, "differs"),
        ({0: 4.0}, {0: 5.0}, ("train", "kept_epoch"), "may differ"),
        ("a" * 32, "b" * 32, ("train", "models/model.safetensors"), "may differ"),
        ("a" * 32, None, ("train", "models/model.safetensors"), "missing"),
        ("a" * 32, "b" * 32, ("preprocess", "data/processed/train.safetensors"), "differs"),
        ({0: 1000.0}, {0: 1000.001}, ("preprocess", "train_samples"), "differs"),
    ],
)
def test_other_device_allows_the_tolerance(
    then: Fact | None, now: Fact | None, name: tuple[str, str], verdict: str
) -> None:
    assert verdict_of(then, now, 0.005, name) == verdict


def test_tolerance_is_relative_above_one() -> None:
    rmse = ("score", "rmse")
    assert verdict_of({0: 1000.0}, {0: 1004.0}, 0.005, rmse) == "within 0.005"
    assert verdict_of({0: 1000.0}, {0: 1006.0}, 0.005, rmse) == "differs"


@pytest.mark.parametrize(
    ("metric", "is_compared"),
    [
        *((name, False) for name in ("fit_s", "images_per_s", "eval_runtime", "time_per_step")),
        *((name, False) for name in ("system/cpu", "latency_p95", "score.seconds", "gpu_watts")),
        *((name, True) for name in ("rmse", "loss", "times_seen", "delivery_time_mae", "items")),
    ],
)
def test_times_are_not_compared(metric: str, is_compared: bool) -> None:
    assert record.is_compared(metric, ("gpu_*",)) == is_compared


def test_row_shows_the_first_difference() -> None:
    (row,) = diff.compare_facts({LOSS: {1: 0.5, 2: 0.25}}, {LOSS: {1: 0.5, 2: 0.25000000000000006}})
    assert (row.then, row.now, row.where) == ("0.25", "0.25000000000000006", "step 2")
    assert not row.is_equal


@pytest.mark.parametrize("devices", [None, ("cpu, then", "gpu, now")])
def test_summary_names_differences_and_devices(
    devices: tuple[str, str] | None,
) -> None:
    good = OutputDiff("train", "val_loss", "1", "1", "same")
    bad = OutputDiff("train", "lost.txt", "1", "", "missing")
    assert verify.sentence([good], 0.005, devices).startswith("verified: 1 output or metric is")
    sentence = verify.sentence([good, bad], 0.005, devices)
    assert sentence.startswith("1 of 2 outputs and metrics is missing then or now: lost.txt")
    assert "differ" not in sentence
    for word in ("cpu, then", "gpu, now", "0.005"):
        assert (word in sentence) == (devices is not None)


@pytest.fixture
def client(folder: Path, empty_store: Path) -> mlflow.MlflowClient:
    """The store of `folder`, no git repository, with an empty MLflow experiment."""
    shutil.copy(empty_store, folder / "mlflow.db")
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    client.create_experiment("mnist", (folder / "mlruns").as_uri())
    return client


def recorded(client: mlflow.MlflowClient, status: str = "FINISHED", **tags: str) -> str:
    """Add a run with these tags, two underscores for a dot, and return its id."""
    (experiment,) = [one for one in client.search_experiments() if one.name == "mnist"]
    dotted = {name.replace("__", "."): value for name, value in tags.items()}
    run = client.create_run(experiment.experiment_id, tags=dotted, run_name="of a test").info.run_id
    client.set_terminated(run, status)
    return run


def refused(run: str, tolerance: float = 0.005) -> str:
    """Return the one line with which `run` is refused."""
    with pytest.raises(RetraceError) as caught:
        verify.check(run, tolerance)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_foreign_run_is_refused(client: mlflow.MlflowClient) -> None:
    other = recorded(client)
    summary = recorded(client, retrace__folds__summary="abc")
    bare = recorded(client, retrace__key="abc")
    for wrong in ("latest", other[:5], "0" * 32):
        assert f"run {wrong!r} was not found in sqlite:///" in refused(wrong)
    assert "is not of this pipeline" in refused(other)
    assert "verify one of its child runs" in refused(summary)
    assert "`retrace sync`" in refused(bare)
    assert "tolerance is -1" in refused(other, tolerance=-1)
    assert "tolerance is nan" in refused(other, tolerance=nan)


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_unfinished_run_is_refused(client: mlflow.MlflowClient, status: str) -> None:
    parent = recorded(client, retrace__key="abc")
    child = recorded(client, status, retrace__stage="train", mlflow__parentRunId=parent)
    client.set_tag(parent, "retrace.run.train", child)
    for run in (parent, child):
        assert (
            f"(of a test): is {status}; only runs with status FINISHED can be verified"
            in refused(run)
        )


def test_ambiguous_run_id_is_refused(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = client.get_run(recorded(client, retrace__key="abc"))
    monkeypatch.setattr(mlflow.MlflowClient, "search_runs", lambda *_, **__: [run, run])
    ids = f"{run.info.run_id}, {run.info.run_id}"
    assert f"2 run ids begin with these digits: {ids};" in refused(run.info.run_id[:6])


def test_run_without_commit_is_refused(
    client: mlflow.MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(folder))
    subprocess.run(["git", "init", "--quiet"], check=True)
    child = recorded(
        client, retrace__stage="train", mlflow__parentRunId=recorded(client, retrace__key="abc")
    )
    assert "ran outside git" in refused(child)
    gone = recorded(client, retrace__key="abc", mlflow__source__git__commit="0" * 40)
    child = recorded(client, retrace__stage="train", mlflow__parentRunId=gone)
    assert f"commit {'0' * 40} is not in this repository" in refused(child)


def test_what_was_lost_is_named_first(
    client: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    child = recorded(
        client, retrace__stage="train", mlflow__parentRunId=recorded(client, retrace__key="abc")
    )
    for tag, text in run_tags.of_lost({"code.patch": "no space"}).items():
        client.set_tag(child, tag, text)
    assert "code.patch (train): no space" in refused(child)
    printed = capsys.readouterr()
    assert (printed.out + printed.err).splitlines()[0].endswith("code.patch (train): no space")


def test_password_is_redacted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:9")
    message = refused("abcdef")
    assert "does not answer" in message
    assert "canary" not in message


WEIGHTS = "models/model.safetensors"
IMAGES = str(paths.IMAGES)


def recorded_experiment(client: mlflow.MlflowClient) -> tuple[str, str]:
    """Record an experiment that ran train and has evaluate cached.

    Return the run IDs of the parent and of evaluate.
    """
    parent = recorded(client, retrace__key="abc")
    child = {"mlflow__parentRunId": parent}
    train = recorded(
        client,
        **child,
        retrace__stage="train",
        **{f"dvc.outs.{WEIGHTS}": "made", "dvc.deps.src": "code"},
    )
    evaluate = recorded(
        client, **child, retrace__stage="evaluate", **{f"dvc.deps.{WEIGHTS}": "read"}
    )
    client.set_tag(evaluate, "retrace.headline", '{"test_loss": 1.5}')
    for step, value in ((2, 0.2), (1, 0.1), (2, 0.3)):  # the last value of a step counts
        client.log_metric(train, "val_loss", value, timestamp=int(value * 10), step=step)
    client.log_metric(train, "train_s", 1.0)
    client.log_metric(parent, "test_loss", 1.25)
    client.set_tag(parent, "retrace.run.train", train)
    client.set_tag(parent, "retrace.cached.evaluate", evaluate)
    return parent, evaluate


def test_facts_of_own_and_other_stages(client: mlflow.MlflowClient, folder: Path) -> None:
    parent, evaluate = recorded_experiment(client)
    pipeline = Pipeline(
        {
            "train": Stage("train", (), outs=(Out(WEIGHTS),)),
            "evaluate": Stage("evaluate", (), deps=(WEIGHTS, "src"), outs=(Out("gone"),)),
        }
    )
    assert record.recorded_facts(client, record.find_record(parent), pipeline) == {
        ("train", WEIGHTS): "made",
        ("train", "val_loss"): {1: 0.1, 2: 0.3},
        ("evaluate", "test_loss"): {"headline": 1.5, "experiment": 1.25},
    }
    alone = record.find_record(evaluate[:8])
    assert record.recorded_facts(client, alone, pipeline) == {
        ("train", WEIGHTS): "read",
        ("evaluate", "test_loss"): {"headline": 1.5},
    }
    (folder / WEIGHTS).parent.mkdir()
    (folder / WEIGHTS).write_bytes(b"")
    events: list[dict[str, Any]] = [
        {"kind": "metrics", "step": 0, "values": {"test_loss": 1.5, "train_s": 2.0}},
        {"kind": "headline", "values": {"test_loss": 1.5}},
    ]
    assert record.reproduced_facts(alone, pipeline, {"evaluate": events}, folder) == {
        ("train", WEIGHTS): "d41d8cd98f00b204e9800998ecf8427e",
        ("evaluate", "test_loss"): {0: 1.5, "headline": 1.5},
    }


@pytest.mark.parametrize(
    ("device", "machine", "kinds"),
    [
        ("cpu", "A", None),
        ("gpu", "A", ("cpu, A", "gpu, A")),
        ("cpu", "B", ("cpu, A", "cpu, B")),
    ],
)
def test_device_change_follows_training(
    client: mlflow.MlflowClient, device: str, machine: str, kinds: tuple[str, str] | None
) -> None:
    parent = recorded(client, retrace__key="abc")
    child = {"mlflow__parentRunId": parent}
    train = recorded(
        client, **child, retrace__stage="train", retrace__device="cpu", retrace__machine="A"
    )
    client.set_tag(parent, "retrace.run.train", train)
    evaluate = recorded(client, **child, retrace__stage="evaluate", retrace__machine="A")
    download = recorded(client, **child, retrace__stage="download", retrace__machine="A")
    logs = {
        "download": [{"kind": "start", "machine": machine}],
        "train": [
            {"kind": "start", "machine": machine},
            {"kind": "tags", "values": {"retrace.device": device}},
        ],
    }
    for run in (parent, train, evaluate):
        assert record.device_change(record.find_record(run), logs, EXACT) == kinds
    del logs["train"]
    assert record.device_change(record.find_record(download), logs, EXACT) is None


def commit(message: str) -> str:
    """Commit all files and return the commit."""
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for command in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*who, "commit", "--quiet", "--message", message],
    ):
        subprocess.run(["git", *command], check=True)
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_code_comes_from_any_matching_commit(client: mlflow.MlflowClient) -> None:
    parent = recorded(client, retrace__key=Workspace(Path()).key())
    gone = recorded(
        client,
        retrace__stage="train",
        mlflow__parentRunId=parent,
        mlflow__source__git__commit="0" * 40,
    )
    client.set_tag(parent, "retrace.run.train", gone)
    ran = commit("what it ran")
    graph = paths.GRAPH.read_text()
    paths.GRAPH.write_text(graph.replace("src python stages/train.py", "src python -O train.py"))
    other = commit("another graph")
    with reproduce.temporary_repository() as tree:
        client.set_tag(parent, "dvc.exp_rev", other)
        with pytest.raises(RetraceError, match="commit 0000.* is not in this repository"):
            restore.restore(client, record.find_record(parent), tree)
        client.set_tag(gone, "mlflow.source.git.commit", other)
        with pytest.raises(
            RetraceError,
            match=f"commit {other[:10]} differs .* in a file that no stage depends on;",
        ):
            restore.restore(client, record.find_record(parent), tree)
        client.set_tag(parent, "dvc.exp_rev", ran)
        assert restore.restore(client, record.find_record(parent), tree) == Origin(ran)
        assert "-O train.py" not in (tree / paths.GRAPH).read_text()
    assert not tree.exists()


@pytest.mark.usefixtures("folder")
def test_images_are_restored_by_md5() -> None:
    paths.IMAGES.mkdir(parents=True)
    (paths.IMAGES / "README.md").write_text("images go here")
    committed = hashing.md5(paths.IMAGES)
    rev = commit("no image")
    (paths.IMAGES / "cat.png").write_bytes(b"cat")
    with reproduce.temporary_repository() as tree:
        check_out_origin(tree, Origin(rev))
        reproduce.restore_data(tree, IMAGES, committed, rev)
        assert hashing.md5(tree / paths.IMAGES) == committed
        reproduce.restore_data(tree, IMAGES, hashing.md5(paths.IMAGES), rev)
        assert (tree / paths.IMAGES / "cat.png").read_bytes() == b"cat"
        with pytest.raises(
            RetraceError, match="data/images has changed since the run, which read MD5 0000"
        ):
            reproduce.restore_data(tree, IMAGES, "0" * 32, rev)


@pytest.mark.usefixtures("folder")
def test_rebuild_needs_git() -> None:
    with (
        pytest.raises(RetraceError, match="is not a git repository"),
        reproduce.temporary_repository(),
    ):
        pass


SMALL = {
    "dataset: mnist": "dataset: digits",
    "epochs: 5": "epochs: 2",
    "threads: 2": "threads: 1",
    "    samples: 500": "    samples: 100",
}
EDITED = Path("src/lab/training/loop.py")


class Trained:
    """A clone that ran download and preprocess, then an experiment with uncommitted code."""

    def __init__(self, above: Path, store: Path) -> None:
        (above / "clone").mkdir()
        (above / "temporary").mkdir()
        self.clone = Clone(above / "clone", above / "cache", SMALL)
        self.temporary = above / "temporary"
        shutil.copy(store, self.clone.path / "mlflow.db")
        self.clone.type("dvc repro preprocess")
        file = self.clone.path / EDITED
        original = file.read_text()
        file.write_text(f"{original}# another\n")
        self.clone.type("dvc exp run --temp --name faster -S lr=0.01")
        file.write_text(original)
        self.store = mlflow.MlflowClient(f"sqlite:///{self.clone.path / 'mlflow.db'}")

    def runs(self, tag: str = "", value: str = "") -> list[Run]:
        """Return all runs, or those with this tag, oldest first."""
        experiment = self.store.get_experiment_by_name("digits")
        assert experiment is not None
        query = f"tags.`{tag}` = '{value}'" if tag else ""
        return list(
            self.store.search_runs([experiment.experiment_id], query, order_by=["start_time ASC"])
        )

    def verify(self, run: Run, code: int = 0) -> str:
        """Verify a run and return the output; afterwards the repository is as before."""
        before = (len(self.runs()), self.clone.type("git status --porcelain"))
        output = self.clone.run(
            "retrace", "verify", run.info.run_id[:12], code=code, TMPDIR=str(self.temporary)
        )
        assert "Traceback" not in output
        assert self.is_clean()
        assert (len(self.runs()), self.clone.type("git status --porcelain")) == before
        return output

    def is_clean(self) -> bool:
        worktrees = self.clone.type("git worktree list").splitlines()
        return not list(self.temporary.glob("retrace-verify-*")) and len(worktrees) == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Trained:
    return Trained(tmp_path_factory.mktemp("verify"), empty_store)


def verdict(output: str, what: str) -> str:
    """Return the last word of the table's row about `what`."""
    rows = [line.split() for line in output.splitlines()]
    (row,) = [row for row in rows if row[1:2] == [what]]
    return row[-1]


@pytest.mark.slow
@pytest.mark.xdist_group("reproduced")
def test_experiment_is_reproduced_to_the_bit(trained: Trained) -> None:
    (parent,) = (
        run for run in trained.runs("dvc.exp_name", "faster") if "retrace.key" in run.data.tags
    )
    assert "retrace.cached.preprocess" in parent.data.tags
    output = trained.verify(parent)
    assert "download, preprocess, train, evaluate, visualize from commit" in output
    assert "and its code.patch" in output
    assert "outputs and metrics are equal" in output
    for what in (
        "data/raw",
        "models/model.safetensors",
        "reports/figures",
        "val_loss",
        "test_accuracy",
    ):
        assert verdict(output, what) == "same"
    for stage in ("download", "preprocess", "train", "evaluate", "visualize"):
        assert f"Running stage '{stage}'" in output
    (left_out,) = [line for line in output.splitlines() if "images_per_s" in line]
    assert left_out.startswith("not compared: ")


@pytest.mark.slow
@pytest.mark.xdist_group("reproduced")
def test_lost_code_cannot_be_reproduced(trained: Trained) -> None:
    train = trained.runs("retrace.stage", "train")[-1]
    for patch in (trained.clone.path / "mlruns").rglob("code.patch"):
        patch.unlink()
    trained.clone.type("dvc exp remove faster")  # its commit has the code too
    output = trained.verify(train, code=2)
    assert "src/lab/training, params.yaml (lr); " in output
    assert "Running stage" not in output
    assert output.count("\n") == 1


@pytest.mark.slow
@pytest.mark.xdist_group("reproduced")
def test_wrong_record_differs(trained: Trained) -> None:
    (child,) = trained.runs("retrace.stage", "download")
    for tag, value in run_tags.of_outs({"data/raw": f"{'0' * 32}.dir"}, {}).items():
        trained.store.set_tag(child.info.run_id, tag, value)
    trained.store.log_metric(child.info.run_id, "raw_bytes", child.data.metrics["raw_bytes"] + 1)
    trained.store.set_tag(
        child.info.run_id, "mlflow.retrace.machine", "another processor"
    )  # no excuse for this stage
    output = trained.verify(child, code=1)
    assert (verdict(output, "data/raw"), verdict(output, "raw_bytes")) == ("differs", "differs")
    assert "2 of 2 outputs and metrics differ: data/raw, raw_bytes" in output
    assert "Running stage 'preprocess'" not in output


@pytest.mark.slow
@pytest.mark.xdist_group("reproduced")
def test_interrupt_leaves_nothing_behind(trained: Trained) -> None:
    env = trained.clone.env | {"TMPDIR": str(trained.temporary)}
    command = ["retrace", "verify", trained.runs("retrace.stage", "preprocess")[0].info.run_id]
    with subprocess.Popen(
        command,
        cwd=trained.clone.path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while not {"dvc", "retrace.tracking.uploader"} <= started(trained.temporary):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(3):  # an impatient user
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        output, _ = process.communicate(timeout=60)  # until no process can write
    assert process.returncode == 130
    assert output.endswith("interrupted\n")
    assert "Traceback" not in output
    assert started(trained.temporary) == set()
    assert trained.is_clean()


def started(folder: Path) -> set[str]:
    """Return the programs that run for a reproduction below `folder`."""
    programs: set[str] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(reproduce.MARK, "").startswith(str(folder)):
                programs |= {Path(word).name for word in process.cmdline()}
    return programs
