"""Whether params.yaml, dvc.yaml, dvc.lock and the code agree."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrace.doctor.findings import REBUILD, Check, Finding, ok, problem, some, warning
from retrace.errors import RetraceError
from retrace.pipeline import dvc_cli, graph, imports, params_file

STATUS_S = 15.0  # for `dvc status`, unless it has to hash gigabytes


def parameters() -> Iterator[Finding]:
    """The stages accept params.yaml."""
    try:
        params_file.check(params_file.read())
        yield ok("what stages accept")
    except RetraceError as error:
        yield problem(str(error).partition("\n")[0], "git restore --source=HEAD params.yaml")


def lock() -> Iterator[Finding]:
    """dvc.lock and dvc.yaml are well-formed."""
    try:
        values = params_file.read()
    except RetraceError:
        return  # reported by `parameters`
    for file, read in (("dvc.yaml", lambda: graph.stages(values)), ("dvc.lock", graph.locked)):
        try:
            read()
        except RetraceError as error:
            yield problem(str(error), f"git restore --source=HEAD --staged --worktree {file}")


def declared() -> Iterator[Finding]:
    """The deps and params of a stage in dvc.yaml are what it imports and reads."""
    if Path(imports.__file__).resolve().parents[1] != Path("src").resolve():
        return  # the installed code is another repository's
    modules = imports.imports_of()
    stale: list[imports.Stale] = []
    for name, stage in graph.declared().items():
        source = Path(f"stages/{name}.py").read_text(encoding="utf-8")
        stale += imports.stale_deps(name, stage["deps"], source, modules)
        stale += imports.stale_params(name, stage["params"])
    for entry in stale:
        yield problem(f"{entry}; DVC reruns stages by it", _repair(entry))
    if not stale:
        yield ok("each stage declares what it imports and reads")


def _repair(stale: imports.Stale) -> str:
    if stale.fault == "lacks":
        change = rf"s|^    {stale.key}:|&\n      - {stale.entry}|"
    else:
        change = rf"{{ \|^      - {stale.entry}$|d }}"
    return f"sed -i '/^  {stale.stage}:/,/^  [a-z]/ {change}' dvc.yaml"


def status() -> Iterator[Finding]:
    """All files are up to date with dvc.lock, the parameters and the code."""
    try:
        ended = dvc_cli.run("status", "--json", timeout=STATUS_S)
    except subprocess.TimeoutExpired:
        yield warning(
            f"`dvc status` takes more than {STATUS_S:.0f} s: it hashes large files", "dvc status"
        )
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
    """Name a stage and what has changed of it."""
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
