"""`retrace.log` and its like in programs: how each ends, and where nothing is kept."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pipelines import write
from repository import ROOT, environment

from retrace import event_log
from retrace.event_log import Event

STAGE = """
  fit:
    cmd: python fit.py
    outs: [model.txt]
    metrics: [metrics.json: {cache: false}]
    plots: [curve.csv: {cache: false}]
"""
PIPELINE = {
    "dvc.yaml": f"stages:{STAGE}",
    "sub/dvc.yaml": f"stages:{STAGE}",  # DVC itself must read the pipeline then: it takes longer
}
# Without the background uploader: what is in MLflow is a matter of other tests.
BEGIN = """
import os, signal, subprocess, sys
from unittest import mock
import retrace
from retrace.tracking import uploader_client
uploader_client.Uploader = mock.MagicMock()
"""
LOGGING = "retrace.log({'loss': 0.5}, step=1)"
OUTPUTS = """
open("metrics.json", "w").write('{"rmse": 0.5}')
open("model.txt", "w").write("")
open("curve.csv", "w").write("x,y")
"""
CHILD = "import retrace; retrace.log({'child': 1.0}); retrace.set_tags(by='child')"


class Program:
    """Programs that run as DVC would run them, in the folder `here` of a repository."""

    def __init__(self, root: Path, here: str = "") -> None:
        self.root = root
        self.here = here
        who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org")
        commit = ("git", *who, "commit", "--quiet", "--allow-empty", "--message=start")
        subprocess.run(commit, cwd=root, check=True)
        self.env = environment(root) | {
            "PYTHONPATH": str(ROOT / "src"),
            "DVC_ROOT": str(root),
            "DVC_STAGE": f"{here}/dvc.yaml:fit" if here else "fit",
        }

    def run(self, code: str, **env: str) -> tuple[int, str]:
        """Run code; return its exit code and the last line of stderr."""
        ended = subprocess.run(
            [sys.executable, "-c", BEGIN + code],
            cwd=self.root / self.here,
            env=self.env | env,
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.returncode, ended.stderr.strip().rpartition("\n")[2]

    @property
    def events(self) -> list[Event]:
        """The events of the only event log; none if there is no event log."""
        paths = list((self.root / ".retrace/journal").glob("*.jsonl"))
        assert len(paths) <= 1
        events = [event for path in paths for event in event_log.read(path)]
        return [event for event in events if event.get("path") != "code.patch"]

    @property
    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(write(tmp_path, {"dvc.yaml": PIPELINE["dvc.yaml"]}))


@pytest.mark.parametrize(
    ("ending", "code", "line", "status", "error"),
    [
        ("", 0, "", "FINISHED", None),
        ("sys.exit()", 0, "", "FINISHED", None),
        ("sys.exit(1)", 1, "", "FAILED", "SystemExit: 1"),
        ("sys.exit('too wet')", 1, "too wet", "FAILED", "SystemExit: too wet"),
        ("raise OSError('x')", 1, "OSError: x", "FAILED", "OSError: x"),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt", "KILLED", None),
    ],
)
def test_end_of_program_is_the_status(
    program: Program, ending: str, code: int, line: str, status: str, error: str | None
) -> None:
    assert program.run(f"{LOGGING}\n{ending}") == (code, line)
    end = program.events[-1]
    assert (end["kind"], end["status"], end.get("error")) == ("end", status, error)


def test_retrace_errors_run_ends_it(program: Program) -> None:
    code = f"from retrace import errors\ndef main(): {LOGGING}\nerrors.run(main)"
    assert program.run(code) == (0, "")
    assert program.events[-1]["status"] == "FINISHED"


def test_killed_program_leaves_no_end(program: Program) -> None:
    code, _ = program.run(f"{LOGGING}\nos.kill(os.getpid(), signal.SIGTERM)")
    assert code == -15  # the default: nothing is in the way of a signal
    assert program.events[-1]["kind"] == "metrics"  # the background uploader ends it


def test_results_are_read_at_the_end(tmp_path: Path) -> None:
    program = Program(write(tmp_path, PIPELINE), "sub")
    assert program.run(LOGGING + OUTPUTS) == (0, "")
    events = program.events
    assert program.kinds == [
        *("start", "metrics", "metrics", "headline", "artifact", "artifact", "end")
    ]
    assert [event["values"] for event in events[1:3]] == [{"loss": 0.5}, {"rmse": 0.5}]
    assert events[0]["stage"] == "sub/dvc.yaml:fit"
    assert events[3]["values"] == {"sub/dvc.yaml:fit/rmse": 0.5}
    assert [event["path"] for event in events[4:6]] == ["sub/metrics.json", "sub/curve.csv"]
    assert set(events[-1]["outs"]) == {"sub/metrics.json", "sub/model.txt", "sub/curve.csv"}


def test_processes_below_share_the_run(program: Program) -> None:
    code = f"subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"
    assert program.run(f"{LOGGING}\n{code}\nretrace.log({{'loss': 0.25}}, step=2)") == (0, "")
    assert [event["values"] for event in program.events if event["kind"] == "metrics"] == [
        *({"loss": 0.5}, {"child": 1.0}, {"loss": 0.25})
    ]
    assert program.events[-1]["status"] == "FINISHED"


def test_fork_does_not_end_it(program: Program) -> None:
    code = f"{LOGGING}\nif os.fork() == 0: sys.exit(1)\nos.wait()\n{LOGGING}"
    assert program.run(code) == (0, "")
    assert program.kinds == ["start", "metrics", "metrics", "end"]
    assert program.events[-1]["status"] == "FINISHED"


def test_functions_log_to_the_stage_around_them(program: Program) -> None:
    inside = "retrace.summary({'rmse': 2})\n    retrace.log_table('t.csv', [])"
    code = f"with retrace.stage() as run:\n    {inside}\n    assert run.id"
    assert program.run(code) == (0, "")
    assert program.kinds == ["start", "metrics", "headline", "artifact", "end"]


@pytest.mark.parametrize("ending", ["", "sys.exit(0)"])
def test_exit_within_stage_is_finished(program: Program, ending: str) -> None:
    assert program.run(f"with retrace.stage():\n    {LOGGING}\n    {ending}") == (0, "")
    assert program.events[-1]["status"] == "FINISHED"


def test_other_ranks_log_nothing(program: Program) -> None:
    assert program.run(f"{LOGGING}\nwith retrace.stage('fit'): pass", RANK="1") == (0, "")
    assert program.events == []
    assert program.run(LOGGING, RANK="0", SLURM_PROCID="0") == (0, "")
    assert program.events[-1]["status"] == "FINISHED"


def test_outside_dvc_is_one_warning(program: Program) -> None:
    del program.env["DVC_STAGE"]
    code = f"{LOGGING}\n{LOGGING}\nretrace.summary({{'a': 1}})\nwith retrace.stage() as run: run.id"
    assert program.run(code) == (0, "warning: not tracked: DVC does not run this program")
    assert program.events == []


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"DVC_STAGE": "other"}, "dvc.yaml: no stage other"),
        ({"DVC_STAGE": "../dvc.yaml:fit"}, "../dvc.yaml:fit: started in"),
    ],
    ids=["no_stage", "no_stage_here"],
)
def test_untrackable_stage_runs(program: Program, variables: dict[str, str], problem: str) -> None:
    code, line = program.run(LOGGING, **variables)
    assert code == 0
    assert line.startswith(f"warning: not tracked: {problem}")
    assert program.events == []


def test_explicit_name_is_refused(program: Program) -> None:
    code, line = program.run("with retrace.stage('fiit'): pass")
    assert code == 1
    assert line.endswith("dvc.yaml: no stage fiit; should be one of fit")


def test_example_of_the_docs_runs(program: Program) -> None:
    section = (ROOT / "docs/api.md").read_text().split("## In your own code\n")[1]
    block = section.split("    import json\n")[1].split("\nWhere a")[0]
    assert program.run(textwrap.dedent("    import json\n" + block)) == (0, "")
    assert program.kinds == [
        *("start", "metrics", "metrics", "metrics", "tags", "artifact"),
        *("metrics", "headline", "artifact", "end"),
    ]


def test_import_is_light() -> None:
    code = "import sys, retrace; print([name for name in sys.modules if '.' in name])"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "retrace." not in ended.stdout
