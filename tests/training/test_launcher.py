"""How a training in several processes ends, and which variables describe its nodes."""

import signal
from pathlib import Path

import pytest
from launched import Launched, copied, prepare, set_params, until

from lab.training import launcher, nodes
from lab.training.nodes import Node
from retrace.errors import RetraceError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("digits"), processes="2", epochs="2")


@pytest.fixture
def training_folder(prepared: Path, tmp_path: Path) -> Path:
    return copied(prepared, tmp_path / "folder")


@pytest.mark.slow
def test_defect_of_a_rank_is_code_1(training_folder: Path) -> None:
    with Launched(training_folder, FAILING="1") as training:
        assert training.end()[0] == 1
    lines = training.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: wet"
    assert training.stderr.count("Traceback") == 1


@pytest.mark.slow
def test_error_of_all_ranks_is_one_line(training_folder: Path) -> None:
    with Launched(training_folder, FAILING="0 1") as training:
        assert training.end()[0] == 2
    assert training.stderr == "dry\n"


@pytest.mark.slow
def test_other_processes_are_named(training_folder: Path) -> None:
    set_params(training_folder, epochs="20")
    with Launched(training_folder) as training:
        training.at(5)
        assert training.end(signal.SIGTERM)[0] == 143
    kept = list(training_folder.glob(".retrace/checkpoints/*"))
    set_params(training_folder, processes="1")
    with Launched(training_folder) as training:
        until(lambda: "resumed from step" in training.stdout, "checkpoint of two processes")
        training.end(signal.SIGTERM)
    assert "not resumed from step" in training.stdout
    assert "-S processes=2" in training.stdout
    assert set(kept) < set(training_folder.glob(".retrace/checkpoints/*"))


def test_invalid_restarts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(launcher.RESTARTS, "often")
    with pytest.raises(RetraceError, match="RETRACE_RESTARTS is 'often'"):
        launcher.n_restarts()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (nodes.ADDRESS, nodes.COUNT, nodes.RANK):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_node_is_alone_by_default(environment: pytest.MonkeyPatch) -> None:
    assert nodes.this(3) == Node(0, 1)


def test_node_is_in_variables(environment: pytest.MonkeyPatch) -> None:
    environment.setenv(nodes.ADDRESS, "[::1]:29400")
    environment.setenv(nodes.COUNT, "2")
    environment.setenv(nodes.RANK, "1")
    assert nodes.this(3) == Node(1, 2, "[::1]", 29400)


@pytest.mark.parametrize(
    ("names", "host"),
    [("gpu[003-010,12]", "gpu003"), ("a,b", "a"), ("node-1", "node-1"), ("n[7]", "n7")],
)
def test_node_is_in_slurm(environment: pytest.MonkeyPatch, names: str, host: str) -> None:
    environment.setenv("SLURM_STEP_NUM_TASKS", "4")
    environment.setenv("SLURM_PROCID", "2")
    environment.setenv("SLURM_STEP_NODELIST", names)
    environment.setenv("SLURM_JOB_ID", "7")
    assert nodes.this(4) == Node(2, 4, host, 20_007)


def test_batch_script_is_one_node(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("SLURM_JOB_NUM_NODES", "4")  # srun starts no task here
    assert nodes.this(1) == Node(0, 1)
    assert capsys.readouterr().err == ""
    assert nodes.this(4) == Node(0, 1)
    assert "4 nodes" in capsys.readouterr().err


def test_one_process_is_no_node_of_srun(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert nodes.this(1) == Node(0, 1)
    environment.setenv(nodes.COUNT, "2")
    environment.setenv(nodes.RANK, "1")
    environment.setenv(nodes.ADDRESS, "host:1")
    with pytest.raises(RetraceError, match="processes is 1; .*-S processes=2"):
        nodes.this(1)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ((None, "2", "0"), "RETRACE_RENDEZVOUS is None"),
        (("host", "2", "0"), "RETRACE_RENDEZVOUS is 'host'"),
        (("host:x", "2", "0"), "RETRACE_RENDEZVOUS is 'x'"),
        (("host:1", "two", "0"), "RETRACE_NODES is 'two'"),
        (("host:1", "2", None), "RETRACE_NODE is ''"),
        (("host:1", "2", "2"), "RETRACE_NODE is 2; should be less than RETRACE_NODES"),
        (("host:1", "4", "0"), "processes is 3; .*-S processes=4"),
    ],
)
def test_invalid_node_is_refused(
    environment: pytest.MonkeyPatch, variables: tuple[str | None, ...], message: str
) -> None:
    for name, value in zip((nodes.ADDRESS, nodes.COUNT, nodes.RANK), variables, strict=True):
        if value is not None:
            environment.setenv(name, value)
    with pytest.raises(RetraceError, match=message) as error:
        nodes.this(3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("processes", "shares"), [(3, [2, 1]), (2, [1, 1]), (7, [4, 3])])
def test_nodes_share_processes(processes: int, shares: list[int]) -> None:
    assert [Node(rank, 2).n_processes(processes) for rank in range(2)] == shares
