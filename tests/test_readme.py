"""What the README names exists, what it shows is so, and what it tells to type is typed by a test."""

import json
import re
import subprocess

import pytest
from repository import BIN, ROOT

from retrace import imports, params
from retrace.errors import ParamsError

README = (ROOT / "README.md").read_text()
TYPED = "".join((ROOT / "tests" / name).read_text() for name in ("test_end_to_end.py", "test_serve.py"))
TEAM = README.split("\n## A server for a team\n")[1].split("\n## ")[0]  # test_team_server.py reads and types these
COMMANDS = re.findall(r"^    \$ (.*)$", README.replace(TEAM, ""), re.MULTILINE)
NOT_TYPED = {". .venv/bin/activate", "mlflow ui"}  # a shell's own; with a port and fewer processes in a test


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in NOT_TYPED])
def test_every_command_is_a_make_target_or_typed_by_a_test(command: str) -> None:
    program, *words = command.split()
    if program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words) <= set(targets)
    elif "dataset=digits" in command:
        assert '"dataset: mnist": "dataset: digits"' in TYPED
    else:
        assert f'"{command.removesuffix("RUN_ID").replace("models:/mnist", "models:/digits")}' in TYPED


def test_make_alone_lists_every_target_that_is_a_command() -> None:
    listed = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^\.PHONY: (\w+)", makefile, re.MULTILINE):
        assert f"{target} - " in listed


def test_every_path_exists() -> None:
    paths = set(re.findall(r"`((?:src|tests|stages|benchmarks)/[\w/.]+)`", README))
    paths |= {f"src/retrace/{table}" for table in re.findall(r"`src/retrace/(\w+)/<name>\.py`", README)}
    paths |= set(re.findall(r"\]\(([^)]+)\)", README))
    block = README.split("## What is where")[1].split("##")[0]
    for indent, name in re.findall(r"^    ( *)([\w./]+) ", block, re.MULTILINE):
        paths.add(f"src/retrace/{name}" if indent else name)
    assert len(paths) > 15
    assert [path for path in sorted(paths) if not (ROOT / path).exists() and path not in ("data/", "models/")] == []


def test_every_table_of_choices_is_in_the_table_of_what_to_add() -> None:
    section = README.split("## To add")[1].split("##")[0]
    for table in [*params.TABLES.values(), *imports.TABLES]:
        assert f"`{table}` |" in section
        assert f"`{table.upper()}`" in section


def test_the_graph_is_dvc_s() -> None:
    drawn = subprocess.run([BIN / "dvc", "dag"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shown = README.split("$ dvc dag\n\n")[1].split("\n\n`download`")[0]
    assert [line.strip() for line in shown.splitlines()] == [line.strip() for line in drawn.rstrip().splitlines()]


def test_the_accuracy_told_is_the_one_measured() -> None:
    metrics = json.loads((ROOT / "reports" / "metrics.json").read_text())
    assert f"test accuracy {metrics['test_accuracy']:.2%}, loss {metrics['test_loss']:.4f}" in README


@pytest.mark.parametrize(("key", "value"), [("lr", "abc"), ("epochs", 0), ("dataset", "mnits"), ("lr", None)])
def test_the_messages_are_ours_word_for_word(values: params.Values, key: str, value: object) -> None:
    wrong = {**values, key: value} if value is not None else {k: v for k, v in values.items() if k != key}
    with pytest.raises(ParamsError) as raised:
        params.checked(wrong)
    assert f"| `{raised.value}` |" in README
