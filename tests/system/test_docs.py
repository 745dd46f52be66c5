"""The documentation: paths exist, outputs are the present ones, a test types each command."""

import json
import re
import subprocess
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

import pytest
import settings_reference
import typed
import yaml
from PIL import Image
from repository import BIN, ROOT

from lab import params
from retrace.cli import arguments, main
from retrace.errors import ParamsError
from retrace.pipeline import params_yaml

FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
OWN_IMAGES = (ROOT / "data/images/README.md").read_text()
README, FAULTS, PIPELINE, COMMAND_LINE = (
    PAGES[name] for name in ("README.md", "docs/faults.md", "docs/pipeline.md", "docs/commands.md")
)
# tests/faults/test_team_*.py types these line by line.
TYPED_AS_A_WHOLE = ("docs/team.md", "docs/server/README.md")
IN_ANOTHER_WAY = {
    ". .venv/bin/activate",  # repository.environment puts the programs first
    'eval "$(retrace --print-completion bash)"',  # test_cli.py completes words in bash
    "pip install 'retrace[cluster]'",  # test_wheel.py installs the wheel with this extra
    # test_end_to_end.py types it with SQLite
    "export RETRACE_SWEEP_STORAGE=postgresql+psycopg2://ann@db.example.org/sweeps",
}


def commands(text: str) -> list[str]:
    """Return the commands in a text, each with its continuation lines."""
    return re.findall(r"^ {4}(?:  )?\$ ((?:.*\\\n)*.*)$", text, re.MULTILINE)


COMMANDS = sorted(
    {
        command
        for page, text in [*PAGES.items(), ("", OWN_IMAGES)]
        if page not in TYPED_AS_A_WHOLE
        for command in commands(text)
    }
    - IN_ANOTHER_WAY
)


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 220
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_typed_by_tests(command: str) -> None:
    program, *words = command.split()
    if program == "make":
        assert set(words) <= set(
            re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        )
    else:
        assert typed.is_typed(command, ROOT / "tests")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("retrace leaderboard", True),
        ("retrace leaderbord", False),
        ("dvc exp run --name faster -S lr=0.02", True),
        ("dvc exp run --name faster -S lr=0.07", False),
        ("retrace verify RUN_ID", True),
        ("retrace verify 4f0c2d", False),
    ],
)
def test_is_typed_distinguishes_commands(command: str, expected: bool) -> None:
    assert typed.is_typed(command, ROOT / "tests") == expected


@pytest.mark.parametrize("page", PAGES)
def test_paths_exist(page: str) -> None:
    named = re.findall(r"`((?:src|tests|stages|benchmarks|docs|examples)/[\w/.]+)`", PAGES[page])
    named += re.findall(r"`(src/[\w/]+)/<name>\.py`", PAGES[page])
    assert [path for path in sorted(set(named)) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_resolve(page: str) -> None:
    """In docs/, `mkdocs build --strict` does this."""
    for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        path, _, anchor = link.partition("#")
        target = ROOT / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in [
                re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles
            ], link


def test_trees_match_the_folders() -> None:
    block = README.split("## What is where")[1].split("##")[0]
    folder = Path()
    listed = []
    for indent, name in re.findall(r"^    ( *)([\w./]+) ", block, re.MULTILINE):
        folder = folder if indent else Path(name)
        listed.append(folder / name if indent else folder)
    assert len(listed) > 25
    outputs = {Path("data"), Path("models")}
    assert [path for path in listed if not (ROOT / path).exists() and path not in outputs] == []
    for package in ("src/retrace", "src/lab"):
        folders = {file.parent for file in (ROOT / package).glob("*/__init__.py")}
        assert folders <= {ROOT / path for path in listed}


def test_every_page_is_linked() -> None:
    linked = set(re.findall(r"\]\((\S+?)\)", README))
    assert set(PAGES) - {"README.md"} <= linked
    assert {
        str(Path("docs") / name)
        for name in re.findall(r"\S+\.md", (ROOT / "mkdocs.yml").read_text())
    } >= {page for page in PAGES if page.startswith("docs/")}


@pytest.mark.parametrize("page", PAGES)
def test_images_are_small_png(page: str) -> None:
    for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGES[page]):
        file = (ROOT / page).parent / path
        with Image.open(file, formats=["PNG"]) as image:
            image.load()
            assert min(image.size) > 300
        assert file.stat().st_size < 300_000


def test_table_lists_every_command() -> None:
    commands = main._commands([])
    parsers: dict[str, ArgumentParser] = next(
        action.choices
        for action in arguments.parser(commands)._actions
        if isinstance(action.choices, dict)
    )
    listed = {}
    group = ""
    row = r"^\| (\w*) ?\| `([\w-]+)`: .* \| (\w*) ?\|$"
    for label, name, with_json in re.findall(row, COMMAND_LINE, re.MULTILINE):
        group = label or group
        listed[name] = (group, with_json)
    assert listed == {
        name: (commands[name].GROUP, "yes" if "--json" in parser.format_usage() else "")
        for name, parser in parsers.items()
    }
    for code in ("0", "1", "2", "130", "141", "143"):
        assert re.search(rf"^\| .*\b{code}\b.* \| ", COMMAND_LINE, re.MULTILINE)


def test_settings_are_those_of_the_code() -> None:
    """If it fails: `python docs/settings_reference.py`."""
    assert PAGES["docs/settings.md"] == settings_reference.page()


def test_setting_without_a_comment_is_refused() -> None:
    @dataclass
    class Silent:
        name: str = ""

    with pytest.raises(ValueError, match="Silent.name: has no comment"):
        list(settings_reference.rows(Silent))


def test_comments_are_meanings() -> None:
    @dataclass
    class Fine:
        one: str = "a"  # at the end | of the line
        # above
        # the line
        two: tuple[str, ...] = ("a",)

    assert list(settings_reference.rows(Fine, "x.")) == [
        '| `x.one` | text | `"a"` | at the end \\| of the line |\n',
        '| `x.two` | list of texts | `["a"]` | above the line |\n',
    ]


def test_table_lists_every_choice() -> None:
    section = README.split("\n## Your own model\n")[1].split("##")[0]
    for table in [*params.TABLES.values(), "figures"]:
        assert f"`{table}` |" in section
        assert f"`{table.upper()}`" in section


def test_graph_is_dvc_dag() -> None:
    drawn = subprocess.run(
        [BIN / "dvc", "dag", "--mermaid"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    shown = PIPELINE.split("```mermaid\n")[1].split("```")[0]
    assert shown.strip() == drawn.stdout.strip()


def test_accuracy_is_committed() -> None:
    metrics = json.loads((ROOT / "reports" / "metrics.json").read_text())
    assert (
        f"test accuracy {metrics['test_accuracy']:.2%}, loss {metrics['test_loss']:.4f}" in README
    )


@pytest.mark.parametrize(
    ("key", "value"), [("lr", "abc"), ("epochs", 0), ("dataset", "mnits"), ("lr", None)]
)
def test_invalid_parameters_are_shown_verbatim(
    values: params_yaml.Values, key: str, value: object
) -> None:
    wrong = (
        {**values, key: value}
        if value is not None
        else {k: v for k, v in values.items() if k != key}
    )
    with pytest.raises(ParamsError) as raised:
        params.checked(wrong)
    assert f"| `{raised.value}` |" in FAULTS


def test_ci_checks_and_compares() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps
    nightly = yaml.safe_load((ROOT / ".github/workflows/long.yml").read_text())["jobs"]["test"]
    assert nightly["strategy"]["matrix"]["target"] == ["long", "faults"]
    (compare,) = re.findall(r"retrace (compare .*) >", "\n".join(steps))
    parser = arguments.parser(main._commands(["compare"]))
    assert parser.parse_args(compare.split()).markdown
