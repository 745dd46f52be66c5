"""What the README and the pages of docs/ name exists, what they show is so, and what they tell to type is typed by a
test.
"""

import json
import re
import shlex
import subprocess
from argparse import ArgumentParser
from pathlib import Path

import pytest
from PIL import Image
from repository import BIN, ROOT

from retrace import cli, imports, params, usage
from retrace.errors import ParamsError

README = (ROOT / "README.md").read_text()
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]}
WHOLE = {  # pages that a test reads, to type all that is on them
    "docs/team.md": "tests/faults/test_team_remote.py",
    "docs/server/README.md": "tests/faults/test_team_server.py",
}
TYPED = "".join(
    (ROOT / "tests" / name).read_text() for name in ("test_end_to_end.py", "test_serve.py", "test_doctor.py")
)
ELSEWHERE = {  # what is typed otherwise than as it stands there: where, and by which words of it
    "retrace ui": ("test_ui.py", '"retrace", "ui", '),  # with a port
    'eval "$(retrace --print-completion bash)"': ("test_cli.py", "--print-completion bash"),
    ". .venv/bin/activate": ("repository.py", '"PATH": '),  # what it is for
    "export RETRACE_SWEEP_STORAGE=postgresql+psycopg2://ann@db.example.org/sweeps": (
        "test_end_to_end.py",
        "export RETRACE_SWEEP_STORAGE=",
    ),
}


def commands(page: str) -> list[str]:
    """All that a page tells to type, each with the lines that go on with it."""
    return re.findall(r"^    \$ ((?:.*\\\n)*.*)$", PAGES[page], re.MULTILINE)


COMMANDS = sorted({command for page in PAGES if page not in WHOLE for command in commands(page)})
BY_A_PAGE = {command for page in WHOLE for command in commands(page)}


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 30
    assert all(len(commands(page)) > 10 for page in WHOLE)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in BY_A_PAGE])
def test_every_command_is_a_make_target_or_typed_by_a_test(command: str) -> None:
    program, *words = command.split()
    if command in ELSEWHERE:
        name, said = ELSEWHERE[command]
        assert said in (ROOT / "tests" / name).read_text()
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words) <= set(targets)
    elif "dataset=digits" in command:
        assert '"dataset: mnist": "dataset: digits"' in TYPED
    else:
        typed = command.removesuffix("RUN_ID").replace("models:/mnist", "models:/digits")
        assert f'"{typed}' in TYPED or ", ".join(f'"{word}"' for word in shlex.split(typed)) in TYPED


@pytest.mark.parametrize(("page", "test"), WHOLE.items())
def test_the_other_pages_are_typed_from_the_first_command_to_the_last(page: str, test: str) -> None:
    assert f'"{page}"' in (ROOT / test).read_text()


def test_make_alone_lists_every_target_that_is_a_command() -> None:
    listed = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^\.PHONY: (\w+)", makefile, re.MULTILINE):
        assert f"{target} - " in listed


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    text, folder = PAGES[page], (ROOT / page).parent
    named = {ROOT / path for path in re.findall(r"`((?:src|tests|stages|benchmarks|docs)/[\w/.]+)`", text)}
    named |= {ROOT / f"src/retrace/{table}" for table in re.findall(r"`src/retrace/(\w+)/<name>\.py`", text)}
    linked = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link}
    named |= {folder / link for link in linked if link}
    assert [path for path in sorted(named) if not path.exists()] == []


def test_every_link_into_a_page_finds_a_heading() -> None:
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([^)]*#[^)]+)\)", text):
            name, _, anchor = link.partition("#")
            if "://" not in name:
                there = ((ROOT / page).parent / name).read_text() if name else text
                headings = re.findall(r"^#+ (.*)$", there, re.MULTILINE)
                assert anchor in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings], link


def test_what_is_where_is_there() -> None:
    block = README.split("## What is where")[1].split("##")[0]
    listed = re.findall(r"^    ( *)([\w./]+) ", block, re.MULTILINE)
    places = [Path(f"src/retrace/{name}" if indent else name) for indent, name in listed]
    assert len(places) > 15
    assert [path for path in places if not (ROOT / path).exists() and str(path) not in ("data", "models")] == []


def test_every_page_is_linked_from_the_readme() -> None:
    assert [page for page in PAGES if page != "README.md" and f"]({page})" not in README] == []


@pytest.mark.parametrize("page", PAGES)
def test_pictures_of_pages_are_pictures_that_load_at_once(page: str) -> None:
    for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGES[page]):
        file = (ROOT / page).parent / path
        with Image.open(file, formats=["PNG"]) as picture:
            picture.load()
            assert min(picture.size) > 300
        assert file.stat().st_size < 300_000


def test_every_command_is_in_the_table_with_what_it_prints_for_scripts() -> None:
    parsers: dict[str, ArgumentParser] = next(
        action.choices for action in usage.parser(cli._commands([]))._actions if isinstance(action.choices, dict)
    )
    section = README.split("\n## The command line\n")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| [\w ]*\| `(\w+)`: .* \| (\w*) ?\|$", section, re.MULTILINE))
    assert told == {name: "yes" if "--json" in parser.format_usage() else "" for name, parser in parsers.items()}
    for code in ("0", "1", "2", "130", "141", "143"):
        assert re.search(rf"^\| .*\b{code}\b.* \| ", section, re.MULTILINE)


def test_every_table_of_choices_is_in_the_table_of_what_to_add() -> None:
    section = README.split("\n## Your own model\n")[1].split("##")[0]
    for table in [*params.TABLES.values(), *imports.TABLES]:
        assert f"`{table}` |" in section
        assert f"`{table.upper()}`" in section


def test_the_graph_is_dvc_s() -> None:
    drawn = subprocess.run([BIN / "dvc", "dag"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shown = PAGES["docs/pipeline.md"].split("$ dvc dag\n\n")[1].split("\n\n`download`")[0]
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
