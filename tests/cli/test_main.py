"""`retrace` on the command line: help, mistakes, JSON, completion."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
from repository import BIN, ROOT, cpu_s, environment

from retrace import plugins
from retrace.cli import arguments, main

PARSER = arguments.parser(main._commands([]))
COMMANDS: dict[str, ArgumentParser] = dict(
    next(action.choices for action in PARSER._actions if isinstance(action.choices, dict))
)
ROWS, COLUMNS = 24, 80
MOST_CPU_S = 0.3
WITH_JSON = sorted(name for name, parser in COMMANDS.items() if "--json" in parser.format_usage())


def retrace(*words: str, cwd: Path = ROOT, code: int = 0) -> tuple[str, str]:
    """Return what a command prints on stdout and on stderr."""
    ended = subprocess.run(
        [BIN / "retrace", *words],
        cwd=cwd,
        env=environment(ROOT / ".retrace"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    return ended.stdout, ended.stderr


def examples(name: str) -> list[str]:
    """Return the commands that the help of `name` shows, without their descriptions."""
    _, _, shown = (COMMANDS[name].epilog or "").partition("examples:\n")
    return [re.split(r" {2,}", line.strip())[0] for line in shown.splitlines()]


def test_help_fits_one_screen() -> None:
    lines = PARSER.format_help().splitlines()
    assert len(lines) <= ROWS
    assert max(map(len, lines)) <= COLUMNS


def test_help_lists_each_command() -> None:
    for name in COMMANDS:
        assert re.search(rf"^.{{6}} {name} +\S", PARSER.format_help(), re.MULTILINE)


def test_plugins_add_lab_commands() -> None:
    assert {"export", "lr-find", "predict", "recipe"} <= set(plugins.entries("commands"))
    assert {"export", "lr-find", "predict", "recipe"} <= set(COMMANDS)


@pytest.mark.parametrize("value", ["no.such.module", "json", "retrace.cli.main:missing"])
def test_broken_plugin_is_one_line(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = metadata.EntryPoint("broken", value, "retrace.commands")
    monkeypatch.setattr(plugins, "entries", lambda _: {"broken": entry})
    assert set(main._commands([])) == set(main.BUILT_IN)
    warning = capsys.readouterr().err
    assert warning.startswith(f"retrace: cannot load the plug-in broken ({value}): ")
    assert warning.count("\n") == 1


def test_builtin_command_loads_no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "load", None)
    assert set(main._commands(["sync", "--json"])) == {"sync"}


def test_help_lists_exit_codes() -> None:
    assert main.__doc__
    for code in ("0", "1", "2", "130", "143"):
        assert re.search(rf"\b{code}\b", arguments.LAST_LINES)
        assert re.search(rf"\b{code}\b", main.__doc__)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_help_has_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    shown = COMMANDS[name].format_help()
    assert examples(name)
    assert max(map(len, shown.splitlines())) <= COLUMNS


@pytest.mark.parametrize("name", COMMANDS)
def test_help_examples_are_valid(name: str) -> None:
    for example in examples(name):
        calls = [
            words for words in re.split(r"[|&()$]+", example) if words.split()[:1] == ["retrace"]
        ]
        assert calls, example
        for call in calls:
            arguments = PARSER.parse_args(shlex.split(call)[1:])
            assert arguments.command is not None


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("recipes", "retrace: unknown command 'recipes': did you mean recipe?"),
        ("docter", "did you mean doctor?"),
        ("xyzzy", "retrace: unknown command 'xyzzy': choose from init, dvc, run, "),
        ("verify", "retrace verify: one of the arguments RUN_ID --cache is required"),
        ("clean --forse", "unrecognized arguments: --forse"),
        ("ui --port many", "invalid int value: 'many'"),
        ("--print-completion fish", "unknown shell 'fish': choose from bash, zsh, tcsh"),
    ],
)
def test_mistake_is_one_line_and_2(typed: str, expected: str) -> None:
    printed, complaint = retrace(*typed.split(), code=2)
    assert printed == ""
    assert expected in complaint
    assert complaint.count("\n") == 1
    assert complaint.endswith("--help`\n")


def test_version_is_that_of_pyproject() -> None:
    assert (
        f'version = "{retrace("--version")[0].split()[1]}"' in (ROOT / "pyproject.toml").read_text()
    )


@pytest.mark.parametrize("word", ["--help", "recipes"])
def test_help_takes_little_cpu(word: str) -> None:
    times = [
        cpu_s(
            partial(
                subprocess.run, [BIN / "retrace", word], cwd=ROOT, capture_output=True, check=False
            )
        )
        for _ in range(5)
    ]
    assert min(times) < MOST_CPU_S


def test_commands_with_json() -> None:
    assert {"clean", "doctor", "reconcile", "recipe", "sync", "trace", "verify"} <= set(WITH_JSON)


@pytest.mark.parametrize("words", ["recipe", "recipe circles_relu", "clean", "verify --cache"])
def test_json_output_is_one_document(words: str) -> None:
    json.loads(retrace(*words.split(), "--json")[0])


def completions(typed: str) -> set[str]:
    """Return what bash offers after `typed` and Tab."""
    words = typed.split(" ")
    listed = " ".join(map(shlex.quote, words))
    script = f"""
        eval "$({BIN / "retrace"} --print-completion bash)"
        COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}
        COMP_LINE={shlex.quote(typed)}; COMP_POINT={len(typed)}
        $(complete -p retrace | sed -E 's/.*-F ([^ ]+).*/\\1/') retrace {shlex.quote(words[-1])} ''
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    completed = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    return set(completed.stdout.split())


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("retrace rec", {"recipe", "reconcile"}),
        ("retrace recipe circles_relu", {"circles_relu", "circles_relu_long"}),
        ("retrace verify --c", {"--cache"}),
        ("retrace trace pyproj", {"pyproject.toml"}),
    ],
)
def test_bash_completes(typed: str, offered: set[str]) -> None:
    assert completions(typed) == offered


@pytest.mark.parametrize("shell", arguments.SHELLS)
def test_completion_names_every_command(shell: str) -> None:
    script = retrace("--print-completion", shell)[0]
    assert [name for name in COMMANDS if name not in script] == []
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_help_imports_nothing_heavy() -> None:
    source = "import sys; from retrace.cli import arguments; from retrace.cli import main; "
    source += "arguments.parser(main._commands([])); print(*sys.modules)"
    completed = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "mlflow", "dvc", "shtab", "rich", "pydantic"} & set(
        completed.stdout.split()
    )
