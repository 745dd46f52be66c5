"""The search space as it is typed, and trials in the database; no trial runs here."""

import math
import multiprocessing
import subprocess
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from PIL import Image

from retrace.cli import sweep
from retrace.errors import ParamsError, RetraceError
from retrace.pipeline.workspace import Workspace
from retrace.sweeps import plot, space, study
from retrace.sweeps.objective import Objective
from retrace.sweeps.parameters import Parameters
from retrace.sweeps.study import Sweep, SweepSettings
from retrace.system import processes

SPACE = ["lr=log:1e-4..1e-1", "model=cnn,lenet"]


def called(*words: str, **options: Any) -> None:
    """Call `retrace sweep` as typed, up to the first trial."""
    usual = {
        "metric": "val_accuracy", "direction": None, "trials": 3, "name": None, "storage": None,
        "seed": 0, "on": None, "jobs": 1, "gpus": None,
        "timeout": math.inf, "no_prune": False, "json": False,
    }  # fmt: skip
    sweep.run(Namespace(words=words, **(usual | options)))


def read_parameters() -> Parameters:
    """Return the parameters of the stages up to the one that measures."""
    return Parameters(Workspace(Path()), ["evaluate"])


def settings_of(
    *words: str, trials: int = 3, prune: bool = True, metric: str = "val_accuracy"
) -> SweepSettings:
    """Return the settings of a sweep called s."""
    direction = "minimize" if metric == "val_loss" else "maximize"
    target = Objective(metric, direction, ("evaluate",))
    searched = space.parse_space(words, read_parameters())
    return SweepSettings("s", searched, target, trials, 0, prune, "epochs")


@pytest.fixture
def measured(folder: Path) -> Path:
    """Return the folder with a metrics file, which says that evaluate makes val_accuracy."""
    (folder / "reports").mkdir()
    (folder / "reports/metrics.json").write_text('{"val_accuracy": 0.9, "test_accuracy": 0.8}')
    return folder


@pytest.fixture
def known(folder: Path) -> Parameters:
    return read_parameters()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lr"], "'lr': should be KEY=VALUES, such as lr=log:1e-4..1e-1 or optimizer=sgd,adam"),
        (["lr="], "'lr=': should be KEY=VALUES"),
        (["epoch=1,2"], "params.yaml: epoch is not a parameter; did you mean epochs?"),
        (["rl=1e-4..1e-1"], "params.yaml: rl is not a parameter; should be one of class_shares"),
        (["models=a,b"], "models is not a parameter; should be one of models.softmax, models."),
        (["lr=1e-3,1e-2", "lr=1e-4..1e-1"], "lr: is given twice"),
        (["lr=0.01"], "nothing varies: give a range or choices, such as lr=log:1e-4"),
        (["lr=1e-1..1e-4"], "lr: '1e-1..1e-4' should go from a lower number to a higher one"),
        (["lr=log:0..1"], "lr: 'log:0..1' should begin above 0 and have no step"),
        (["lr=0.1..0.5:0.9"], "lr: '0.1..0.5:0.9' should have a step above 0 and at most 0.4"),
        (["lr=1e-4..1e400"], "lr: '1e-4..1e400' should go from"),
        (["lr=0..1"], "params.yaml: lr is 0.0; should be greater than 0"),
        (["lr=1..2000"], "params.yaml: lr is 2000.0; should be less than or equal to 1000"),
        (["lr=1e-4..abc"], "params.yaml: lr is '1e-4..abc'; should be a valid number"),
        (["lr=1e-4,abc"], "params.yaml: lr is 'abc'; should be a valid number"),
        (["lr=0.1,0.1"], "lr: '0.1,0.1' has a value twice"),
        (["lr=range(1,5)"], "lr: 'range(1,5)' is DVC's range syntax; here a range is LOW..HIGH"),
        (["lr=0.1,"], "lr: '0.1,' is not valid for -S"),
        (["epochs=0.5..3"], "params.yaml: epochs is 0.5; should be a valid integer"),
        (["epochs=0..3"], "params.yaml: epochs is 0; should be greater than or equal to 1"),
        (["model=cnn,lenett"], "params.yaml: model is 'lenett'; should be one of softmax"),
        (["keep=best,worst"], "params.yaml: keep is 'worst'; should be 'best' or 'last'"),
        (["lr=1e-4..1", "epochs=0"], "params.yaml: epochs is 0; should be greater"),
        (["models.cnn.hidden=-5..64"], "models.cnn.hidden is -5; should be greater than"),
        (["models.mlp.hidden=64,128", "model=mlp"], "models.mlp.hidden is 64; should be a"),
        (["models.mlp.hidden=[64],[32]"], "models.mlp.hidden: has no effect, because model is cnn"),
        (["figures.tsne.samples=10..20"], "figures.tsne.samples: has no effect"),
        (["fold=0,1"], "fold: cannot be swept, because the setting sweep.fixed names it; `dvc "),
        (["dataset=mnist,digits"], "dataset: cannot be swept"),
        (["datasets.circles.noise=0..1"], "datasets.circles.noise: cannot be swept"),
    ],
)  # fmt: skip
def test_space_refuses_in_one_line(measured: Path, words: list[str], message: str) -> None:
    with pytest.raises(ParamsError) as raised:
        called(*words)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (measured / ".retrace").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "test_accuracy"}, "--metric is 'test_accuracy', and selecting parameters"),
        ({"metric": "f1"}, "--metric is 'f1', which no stage makes; should be one of val_acc"),
        ({"trials": 0}, "--trials is 0; should be above 0"),
        ({"jobs": -1}, "--jobs is -1; should be above 0"),
        ({"timeout": math.nan}, "--timeout is nan; should be above 0"),
        ({"seed": -1}, "--seed is -1; should be from 0 to 4294967295"),
        ({"name": "../x"}, "--name is '../x'; should be a letter, then letters, digits, _ and -"),
        ({"name": "a" * 52}, "should be a letter"),
        ({"storage": "trials.db"}, "--storage is 'trials.db'; should be an address such as sqlite"),
    ],
)
def test_option_is_refused_in_one_line(
    measured: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParamsError) as raised:
        called(*SPACE, **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (measured / ".retrace").exists()


def test_sweep_needs_a_commit(folder: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    with pytest.raises(RetraceError, match="has no commit yet, which an experiment needs"):
        called(*SPACE)


@pytest.mark.parametrize(
    ("word", "axis"),
    [
        ("lr=log:1e-4..1e-1", FloatDistribution(1e-4, 1e-1, log=True)),
        ("lr=0.1..0.5", FloatDistribution(0.1, 0.5)),
        ("lr=1..5", FloatDistribution(1, 5)),
        ("lr=0.1..0.75:0.2", FloatDistribution(0.1, 0.7, step=0.2)),
        ("epochs=1..5", IntDistribution(1, 5)),
        ("batch_size=log:16..256", IntDistribution(16, 256, log=True)),
        ("batch_size=16..250:16", IntDistribution(16, 240, step=16)),
        ("model=cnn,lenet", CategoricalDistribution(("cnn", "lenet"))),
        ("freeze_backbone=true,false", CategoricalDistribution(("true", "false"))),
        ("models.cnn.channels=[8,16],[16,32]", CategoricalDistribution(("[8,16]", "[16,32]"))),
    ],
)
def test_word_is_parsed_to_axis(known: Parameters, word: str, axis: object) -> None:
    parsed = space.parse_space([word], known)
    assert parsed.axes == {word.partition("=")[0]: axis}


def test_values_are_as_dvc_reads_them(known: Parameters) -> None:
    parsed = space.parse_space(
        ["model=mlp", "models.mlp.hidden=[64],[128,64]", "freeze_backbone=false,true"], known
    )
    changes = parsed.changes({"models.mlp.hidden": "[128,64]", "freeze_backbone": "true"})
    assert changes == {"model": "mlp", "models.mlp.hidden": [128, 64], "freeze_backbone": True}
    assert parsed.values(changes)["models"]["mlp"]["hidden"] == [128, 64]
    assert parsed.values(changes)["lr"] == known.base["lr"]


def test_setting_varies_only_with_its_choice(known: Parameters) -> None:
    parsed = space.parse_space(
        ["models.cnn.hidden=32,64", "model=cnn,lenet", "batch_size=16..32:16"], known
    )
    assert list(parsed.axes) == ["model", "models.cnn.hidden", "batch_size"]
    all_trials = parsed.all_trials(6)
    assert all_trials is not None
    assert len(all_trials) == 6
    assert [trial for trial in all_trials if trial["model"] == "lenet"] == [
        {"model": "lenet", "batch_size": 16},
        {"model": "lenet", "batch_size": 32},
    ]
    assert parsed.all_trials(5) is None
    assert space.parse_space(["lr=0.1..0.5"], known).all_trials(10**6) is None


def test_name_is_equal_for_equal_spaces(known: Parameters) -> None:
    named = [
        space.parse_space(words, known).name(metric)
        for words, metric in [
            (SPACE, "val_loss"),
            (SPACE[::-1], "val_loss"),
            (["lr=log:0.0001..0.1", SPACE[1]], "val_loss"),
            (SPACE, "val_accuracy"),
            ([*SPACE, "epochs=3"], "val_loss"),
        ]
    ]
    assert named[0] == named[1] == named[2]
    assert len(set(named)) == 3
    assert named[0].startswith("model-lr-")
    assert space.NAME.fullmatch(named[0])


@pytest.fixture(scope="session")
def empty_trials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Optuna's database without a sweep: creating one takes most of a second."""
    file = tmp_path_factory.mktemp("trials") / "sweeps.db"
    optuna.storages.RDBStorage(f"sqlite:///{file}").engine.dispose()
    return file


Opened = Callable[..., Sweep]


@pytest.fixture
def opened(folder: Path, empty_trials: Path) -> Opened:
    """Create or continue the sweep called s."""
    database = folder / "trials.db"
    database.write_bytes(empty_trials.read_bytes())

    def sweep_of(
        *words: str, trials: int = 3, prune: bool = True, metric: str = "val_accuracy"
    ) -> Sweep:
        settings = settings_of(*(words or SPACE), trials=trials, prune=prune, metric=metric)
        return Sweep(settings, f"sqlite:///{database}")

    return sweep_of


def dead_process() -> str:
    """Return the identity of a dead process, as a trial has it."""
    with subprocess.Popen(["sleep", "60"]) as process:
        who = processes.to_line(processes.identity(process.pid))
        process.kill()
    return who


def test_sweep_has_n_trials(opened: Opened) -> None:
    held = opened(trials=2)
    for number in range(2):
        claimed = held.claim()
        assert claimed
        assert claimed.number == number
        held.end(claimed, [TrialState.COMPLETE, TrialState.FAIL][number], [0.5, None][number])
    assert held.claim() is None
    more = opened(trials=3)
    assert not more.is_new
    assert more.claim()
    assert more.claim() is None, "another process is at the last"


def test_trial_of_dead_process_is_taken_over(opened: Opened) -> None:
    held = opened(trials=1)
    first = held.claim()
    assert first
    held.should_prune(first, 1, 0.25)
    assert opened(trials=1).claim() is None
    first.trial.set_user_attr(study.PROCESS, dead_process())
    again = opened(trials=1).claim()
    assert again
    assert (again.number, again.changes, again.reported) == (0, first.changes, {1})
    held.should_prune(again, 1, 0.25)
    held.should_prune(again, 2, 0.5)
    held.end(again, TrialState.COMPLETE, 0.5)
    assert [each.intermediate_values for each in held.trials()] == [{1: 0.25, 2: 0.5}]


def test_abandoned_trial_is_taken_over(opened: Opened) -> None:
    held = opened(trials=2)
    claimed = held.claim()
    assert claimed
    held.leave(claimed)
    again = held.claim()
    assert again
    assert again.number == 0
    with pytest.warns(UserWarning, match="Heartbeat"):
        held.study.ask()  # and there the process was killed
    other = held.claim()
    assert other
    assert other.number == 1
    assert set(other.changes) == {"lr", "model"}


def test_remote_trial_is_kept_until_stale(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    held = opened(trials=1)
    claimed = held.claim()
    assert claimed
    claimed.trial.set_user_attr(study.PROCESS, "elsewhere/01234567 boot 1 1.0")
    assert held.claim() is None
    monkeypatch.setattr(held, "_is_stale", lambda trial: trial.number == claimed.number)
    assert held.claim()


def test_resumed_sweep_proposes_same_trials(opened: Opened, tmp_path: Path) -> None:
    proposed = []
    held = opened(trials=6)
    for number in range(6):
        if number == 3:
            held = opened(trials=6)
        claimed = held.claim()
        assert claimed
        proposed.append(claimed.changes)
        held.end(claimed, TrialState.COMPLETE, 1 / (2 + number))
    held.forget()
    held = opened(trials=6)
    for number in range(6):
        claimed = held.claim()
        assert claimed
        assert claimed.changes == proposed[number]
        held.end(claimed, TrialState.COMPLETE, 1 / (2 + number))
    assert len({str(changes) for changes in proposed}) == 6


def test_first_ten_proposals_ignore_results(opened: Opened) -> None:
    """So they are equal, in whatever order trials end."""
    proposed: list[list[Any]] = []
    for is_reversed in (False, True):
        held = opened(trials=10)
        claimed = [each for _ in range(10) if (each := held.claim())]
        for number, each in enumerate(reversed(claimed) if is_reversed else claimed):
            held.end(each, TrialState.COMPLETE, 1 / (2 + number))
        proposed.append([each.changes for each in claimed])
        held.forget()
    assert len(proposed[0]) == 10
    assert proposed[0] == proposed[1]


def test_small_space_is_run_once_each(opened: Opened) -> None:
    held = opened("model=cnn,lenet", "batch_size=32,64", trials=30)
    assert held.n_trials == 4
    changes = []
    while claimed := held.claim():
        changes.append(str(claimed.changes))
        held.end(claimed, TrialState.COMPLETE, 0.5)
    assert len(set(changes)) == len(changes) == 4


def test_twin_is_complete_trial(opened: Opened) -> None:
    held = opened("model=cnn,lenet,softmax", trials=2)
    for model in ("cnn", "cnn"):
        held.study.enqueue_trial({"model": model})
    first, second = held.claim(), held.claim()
    assert first
    assert second
    assert held.twin(second) is None
    held.end(first, TrialState.COMPLETE, 0.5)
    twin = held.twin(second)
    assert twin
    assert twin.number == 0


@pytest.mark.parametrize(
    ("metric", "good", "bad"), [("val_accuracy", 0.9, 0.1), ("val_loss", 0.1, 2.3)]
)
def test_pruner_compares_curves(opened: Opened, metric: str, good: float, bad: float) -> None:
    held = opened("lr=log:1e-4..1e-1", "epochs=9", trials=10, metric=metric)
    for _ in range(study.FIRST):
        claimed = held.claim()
        assert claimed
        assert not any(held.should_prune(claimed, epoch, good) for epoch in range(1, 10)), (
            "too few to compare with"
        )
        held.end(claimed, TrialState.COMPLETE, good)
    claimed = held.claim()
    assert claimed
    assert [held.should_prune(claimed, epoch, bad) for epoch in range(1, 10)] == [
        False,
        False,
        *[True] * 6,
        False,
    ]
    held.end(claimed, TrialState.PRUNED)
    claimed = held.claim()
    assert claimed
    assert not any(held.should_prune(claimed, epoch, good) for epoch in range(1, 10))


def test_pruner_is_off_without_prune(opened: Opened) -> None:
    held = opened(trials=10, prune=False)
    for value in (0.9,) * study.FIRST + (0.1,):
        claimed = held.claim()
        assert claimed
        assert not any(held.should_prune(claimed, epoch, value) for epoch in range(1, 6))
        held.end(claimed, TrialState.COMPLETE, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda: ["lr=log:1e-4..1", "model=cnn,lenet"],
            "sweep s searches lr=log:0.0001..0.1, not log:0.0001..1.0",
        ),
        (lambda: SPACE[:1], "sweep s searches model=cnn,lenet, which is missing now"),
        (lambda: [*SPACE, "batch_size=16,32"], "sweep s searches no batch_size"),
        (lambda: [*SPACE, "epochs=3"], "sweep s has epochs=5, not 3"),
        (lambda: edited("params.yaml", "\nseed: 0", "\nseed: 1"), "sweep s has seed=0, not 1"),
        (
            lambda: edited("stages/train.py", "a", "b"),
            "sweep s was started with a different version of stages/train.py",
        ),
    ],
)
def test_other_sweep_of_same_name_is_refused(
    opened: Opened, change: Callable[[], list[str]], message: str
) -> None:
    Path("stages").mkdir()
    Path("stages/train.py").write_text("a")
    opened(*SPACE)
    words = change()
    with pytest.raises(ParamsError) as raised:
        opened(*words)
    assert str(raised.value).startswith(f"{message}; ")
    assert str(raised.value).endswith(" --name NAME")


def edited(file: str, old: str, new: str) -> list[str]:
    path = Path(file)
    path.write_text(path.read_text().replace(f"{old}", new, 1))
    return SPACE


def test_code_outside_stages_may_change(opened: Opened) -> None:
    opened()
    Path("src/retrace/added").mkdir(parents=True)
    Path("src/retrace/added/other.py").touch()
    assert not opened().is_new


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("sqlite:///broken.db", "file is not a database"),
        ("nosuch://ann:secret-word@host/name", "nosuch://***@host/name: Can't load plugin"),
        (
            "postgresql+psycopg2://ann:secret-word@127.0.0.1:9/name",
            "://***@127.0.0.1:9/name: connection to server",
        ),
    ],
)
def test_bad_storage_is_one_line_redacted(folder: Path, address: str, message: str) -> None:
    (folder / "broken.db").write_bytes(b"no database" * 1000)
    settings = settings_of(*SPACE)
    with pytest.raises(RetraceError) as raised:
        Sweep(settings, study.storage_address(address))
    assert message in str(raised.value)
    assert "secret-word" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (folder / "broken.db").read_bytes() == b"no database" * 1000


def _claims(address: str, queue: Any) -> None:
    settings = settings_of(*SPACE, trials=12)
    held = Sweep(settings, address)
    taken = []
    while claimed := held.claim():
        taken.append((claimed.number, str(claimed.changes)))
        held.end(claimed, TrialState.COMPLETE, 0.5)
    queue.put(taken)


def test_processes_share_one_new_database(folder: Path) -> None:
    together = multiprocessing.get_context("fork")
    queue: Any = together.Queue()
    started = [
        together.Process(target=_claims, args=(study.storage_address(None), queue))
        for _ in range(3)
    ]
    for process in started:
        process.start()
    taken = [each for _ in started for each in queue.get(timeout=60)]
    for process in started:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(number for number, _ in taken) == list(range(12))
    assert len({changes for _, changes in taken}) == 12
    assert not [file for file in (folder / ".retrace").iterdir() if file.name.startswith(".")]


@pytest.mark.parametrize("metric", ["val_accuracy", "val_loss"])
@pytest.mark.parametrize("n", [1, 3, 12])
def test_plot_is_deterministic(opened: Opened, metric: str, n: int) -> None:
    words = [
        "lr=log:1e-4..1e-1",
        "models.cnn.hidden=32,64",
        "model=cnn,lenet",
        "batch_size=16..64:16",
    ]
    held = opened(*words, trials=n, metric=metric, prune=False)
    for number in range(n):
        claimed = held.claim()
        assert claimed
        held.should_prune(claimed, 1, 0.1 * number)
        complete = number % 4 < 3
        held.end(
            claimed,
            TrialState.COMPLETE if complete else TrialState.PRUNED,
            0.1 * number if complete else None,
        )
    plot.draw(held.study, metric, Path("sweep.png"))
    with Image.open("sweep.png") as image:
        assert min(image.size) > 400
        assert len(image.convert("L").getcolors(256) or []) > 10
    first = Path("sweep.png").read_bytes()
    plot.draw(held.study, metric, Path("sweep.png"))
    assert Path("sweep.png").read_bytes() == first


def test_optuna_cannot_take_over_a_trial() -> None:
    """Once Optuna has a public way, optuna_internals should use it."""
    public = [
        name for kind in (optuna.Study, Trial, FrozenTrial) for name in dir(kind) if name[0] != "_"
    ]
    assert {"trial_id", "study_id", "take_over", "resume_trial", "heartbeat"} & set(public) == set()
    assert not hasattr(RDBStorage, "get_stale_trial_ids")
