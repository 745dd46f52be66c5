"""params.yaml, dvc.yaml and dvc.lock against one another and against the code."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrace import dvc_cli, graph, imports, params, params_file
from retrace.checks.findings import REBUILD, Check, Finding, ok, problem, some, warning
from retrace.errors import RetraceError

STATUS_S = 15.0  # in which DVC says what has changed, unless it has to hash gigabytes first


def parameters() -> Iterator[Finding]:
    """params.yaml is what stages accept."""
    try:
        params.checked(params_file.read())
        yield ok("what stages accept")
    except RetraceError as error:
        yield problem(str(error).partition("\n")[0], "git restore --source=HEAD params.yaml")


def lock() -> Iterator[Finding]:
    """dvc.lock and dvc.yaml are as DVC has them."""
    try:
        values = params_file.read()
    except RetraceError:
        return  # told by `parameters`
    for file, read in (("dvc.yaml", lambda: graph.stages(values)), ("dvc.lock", graph.locked)):
        try:
            read()
        except RetraceError as error:
            yield problem(str(error), f"git restore --source=HEAD --staged --worktree {file}")


def declared() -> Iterator[Finding]:
    """What dvc.yaml says that a stage depends on is what it imports and is given."""
    if Path(imports.__file__).resolve().parents[1] != Path("src").resolve():
        return  # it is another repository's code that would be compared
    modules, stale = imports.imports_of(), list[imports.Stale]()
    for name, stage in graph.declared().items():
        source = Path(f"stages/{name}.py").read_text(encoding="utf-8")
        stale += imports.stale_deps(name, stage["deps"], source, modules)
        stale += imports.stale_params(name, stage["params"])
    for each in stale:
        yield problem(f"{each}; what DVC skips and runs again goes by it", _mended(each))
    if not stale:
        yield ok("each stage depends on what it imports and is given")


def _mended(stale: imports.Stale) -> str:
    if stale.fault == "lacks":
        change = rf"s|^    {stale.key}:|&\n      - {stale.entry}|"
    else:
        change = rf"{{ \|^      - {stale.entry}$|d }}"
    return f"sed -i '/^  {stale.stage}:/,/^  [a-z]/ {change}' dvc.yaml"


def status() -> Iterator[Finding]:
    """What is here is what dvc.lock says, of the parameters and the code that are here."""
    try:
        asked = dvc_cli.run("status", "--json", timeout=STATUS_S)
    except subprocess.TimeoutExpired:
        yield warning(f"DVC has not said within {STATUS_S:.0f} s what has changed: it hashes large files", "dvc status")
        return
    if asked.returncode:
        lines = asked.stderr.split("\n\n")[0].strip().splitlines() or [f"it ended with {asked.returncode}"]
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        broken = re.search(r"\b(ImportError|ModuleNotFoundError|No module named)\b", asked.stderr)
        yield problem(f"`dvc status` fails: {said}", REBUILD if broken else None)
    elif changed := json.loads(asked.stdout or "{}"):
        yield warning(f"not made with what is here: {some([_told(*each) for each in changed.items()], 5)}", "dvc repro")
    else:
        yield ok("all that dvc.lock names is here, made with this code and these parameters")


def _told(stage: str, changes: list[Any]) -> str:
    paths = {path for change in changes if isinstance(change, dict) for kind in change.values() for path in kind}
    return f"{stage} ({some(sorted(paths))})" if paths else stage


CHECKS: dict[str, Check] = {"params.yaml": parameters, "dvc.lock": lock, "dvc.yaml": declared, "pipeline": status}
