"""Do params.yaml, dvc.yaml, dvc.lock and the code agree?"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from retrace import plugins
from retrace.doctor.findings import Check, Finding, ok, problem, rebuild, some, warning
from retrace.errors import RetraceError
from retrace.pipeline import dvc_cli, params_yaml, program
from retrace.pipeline.definition import Stage, prefixes
from retrace.pipeline.workspace import Workspace
from retrace.settings import PARAMS
from retrace.system import interpreter

PYTHON = re.compile(r"(?:\w+=\S+ +)*(python[\d.]*) ")  # of a command, after variables
MISSING = """
import importlib.util as util, sys
print(*(name for name in sys.argv[1:] if util.find_spec(name) is None))
"""
STATUS_S = 15.0  # for `dvc status`, unless it has to hash gigabytes


def parameters() -> Iterator[Finding]:
    """Check that plug-ins accept params.yaml, and that each stage's parameters can be read."""
    if plugins.entries("params") and PARAMS.exists():
        try:
            params_yaml.check(params_yaml.read())
        except RetraceError as error:
            repair = f"git restore --source=HEAD {PARAMS}"
            yield problem(str(error).partition("\n")[0], repair)
            return
    try:
        workspace = Workspace(Path())
    except RetraceError:
        return  # the check of dvc.lock says why
    wrong = dict(_unreadable(workspace))
    for name, reason in wrong.items():
        yield problem(f"{name}: {reason}")
    if not wrong:
        yield ok("values that the stages accept")


def _unreadable(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Yield each stage whose parameters cannot be read, and the reason."""
    for stage in workspace.pipeline.stages.values():
        try:
            workspace.params(stage)
        except RetraceError as error:
            yield stage.name, str(error).partition("\n")[0]


def lock() -> Iterator[Finding]:
    """Check that dvc.lock and dvc.yaml are valid."""
    file = "dvc.yaml"
    try:
        workspace = Workspace(Path())
        file = "dvc.lock"
        _ = workspace.locked
    except RetraceError as error:
        yield problem(str(error), f"git restore --source=HEAD --staged --worktree {file}")


def declared() -> Iterator[Finding]:
    """Check that Python stages declare what they import, if they declare their own program."""
    try:
        workspace = Workspace(Path())
    except RetraceError:
        return  # the check of dvc.lock says why
    lacking = {
        stage.name: missing
        for stage in workspace.pipeline.stages.values()
        if (missing := _undeclared(workspace, stage))
    }
    for name, missing in lacking.items():
        state = f"{name} imports {some(missing)}, which `deps` in dvc.yaml lacks"
        yield warning(f"{state}, so DVC does not rerun the stage when that code changes")
    if not lacking:
        yield ok("each Python stage that declares its program declares what it imports")


def _undeclared(workspace: Workspace, stage: Stage) -> list[str]:
    """List the files that a stage's Python program imports and its `deps` do not cover.

    A dep such as `networks/${model}.py` covers all files that it could stand for.
    """
    script = workspace.program(stage)
    if script is None or not script.endswith(".py"):
        return []
    if script not in stage.deps:
        return []
    patterns = _templates(workspace)
    return sorted(
        file
        for file in program.imported(workspace.root, stage, script)
        if set(stage.deps).isdisjoint([*prefixes(file), "."])
        and not any(fnmatch(file, pattern) for pattern in patterns)
    )


def interpreters() -> Iterator[Finding]:
    """Check that the Python that DVC starts has the packages that the stages import first."""
    try:
        workspace = Workspace(Path())
    except RetraceError:
        return  # the check of dvc.lock says why
    needed: dict[str, set[str]] = {}
    for stage in workspace.pipeline.stages.values():
        script = workspace.program(stage)
        pythons = [match[1] for command in stage.commands if (match := PYTHON.match(command))]
        if script and script.endswith(".py") and pythons:
            modules = program.required(workspace.root, stage, script)
            needed[pythons[0]] = needed.get(pythons[0], set()) | modules
    for python, modules in needed.items():
        path = shutil.which(python)
        missing = [] if path is None else _missing(path, sorted(modules))
        if path is None:
            yield problem(f"stages run `{python}`, which is not on PATH", interpreter.activation())
        elif missing:
            state = f"stages run `{python}`, which is {path} and lacks {some(missing)}"
            yield problem(state, interpreter.activation())
        else:
            yield ok(f"stages run {path}, with the packages that they import")


def _missing(python: str, modules: list[str]) -> list[str]:
    """List the modules that a Python lacks."""
    ended = subprocess.run(
        [python, "-c", MISSING, *modules], capture_output=True, text=True, check=False
    )
    return ended.stdout.split() if ended.returncode == 0 else ["what is needed to start"]


def _templates(workspace: Workspace) -> list[str]:
    """Return the paths with `${...}` in each dvc.yaml, as patterns."""
    patterns = []
    for file in workspace.pipeline.files:
        text = (workspace.root / file).read_text(encoding="utf-8")
        for word in re.findall(r"\S*\$\{\S*", text):
            path = re.sub(r"\$\{[^}]*\}", "*", word.strip("\"',[]"))
            patterns.append(os.path.normpath(Path(file).parent / path))
    return [pattern for pattern in patterns if "/" in pattern or pattern.endswith(".py")]


def status() -> Iterator[Finding]:
    """Check that all files are up to date with dvc.lock, the parameters and the code."""
    try:
        ended = dvc_cli.run("status", "--json", timeout=STATUS_S)
    except subprocess.TimeoutExpired:
        took = f"`dvc status` takes more than {STATUS_S:.0f} s: it hashes large files"
        yield warning(took, "dvc status")
        return
    if ended.returncode:
        lines = ended.stderr.split("\n\n")[0].strip().splitlines()
        lines = lines or [f"exit code {ended.returncode}"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        broken = re.search(r"\b(ImportError|ModuleNotFoundError|No module named)\b", ended.stderr)
        yield problem(f"`dvc status` fails: {reason}", rebuild() if broken else None)
        return
    document = json.loads(ended.stdout or "{}")
    changed = {name: each for name, each in document.items() if each != ["always changed"]}
    if changed:
        stages = some([_changed(stage, changes) for stage, changes in changed.items()], 5)
        everywhere = " --all-pipelines" if any("dvc.yaml:" in stage for stage in changed) else ""
        yield warning(f"not up to date: {stages}", f"dvc repro{everywhere}")
    else:
        yield ok("all stages are up to date")


def _changed(stage: str, changes: list[Any]) -> str:
    """Return a stage's name and its changed files."""
    paths = {
        path
        for change in changes
        if isinstance(change, dict)
        for kind in change.values()
        for path in kind
    }
    return f"{stage} ({some(sorted(paths))})" if paths else stage


CHECKS: dict[str, Check] = {
    "params.yaml": parameters,
    "dvc.lock": lock,
    "dvc.yaml": declared,
    "python of the stages": interpreters,
    "pipeline": status,
}
