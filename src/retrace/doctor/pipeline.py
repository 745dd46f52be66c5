"""Do params.yaml, dvc.yaml, dvc.lock and the code agree?"""

import json
import re
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from retrace.doctor.findings import REBUILD, Check, Finding, ok, problem, some, warning
from retrace.errors import RetraceError
from retrace.pipeline import dvc_cli, imports, params_file
from retrace.pipeline.workspace import Workspace

STATUS_S = 15.0  # for `dvc status`, unless it has to hash gigabytes


def parameters() -> Iterator[Finding]:
    """Check that the stages accept params.yaml."""
    try:
        params_file.check(params_file.read())
        yield ok("values that the stages accept")
    except RetraceError as error:
        yield problem(str(error).partition("\n")[0], "git restore --source=HEAD params.yaml")


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
    """Check that the code in each stage's `deps` is the code that its script imports."""
    packages = imports.packages()
    if not packages or not all(map(_is_imported_from_here, packages)):
        return  # there is no src/, or the installed code is that of another repository
    stale = imports.check()
    for entry in stale:
        effect = "DVC reruns the stage needlessly"
        if entry.is_missing:
            effect = "DVC does not rerun the stage when that code changes"
        yield problem(f"{entry}, so {effect}", "make deps")
    if not stale:
        yield ok("each stage declares what it imports")


def _is_imported_from_here(package: str) -> bool:
    """Return whether Python imports this package from src/ of this repository."""
    spec = find_spec(package)
    here = (imports.SOURCE / package).resolve()
    origin = spec.origin if spec else None
    return origin is not None and Path(origin).resolve().parent == here


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
        yield problem(f"`dvc status` fails: {reason}", REBUILD if broken else None)
    elif changed := json.loads(ended.stdout or "{}"):
        stages = some([_changed(stage, changes) for stage, changes in changed.items()], 5)
        yield warning(f"not up to date: {stages}", "dvc repro")
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
    "pipeline": status,
}
