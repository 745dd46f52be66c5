"""Find the code that each stage's script imports, and compare it with the `deps:` in dvc.yaml.

DVC does not follow imports, so deps that are written by hand become stale unnoticed.
`python -m lab.doctor.code_deps` writes them (`make deps`).

The engine (`src/retrace`) only records the stages and does not influence their outputs, so it is
not a dependency of any stage.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from retrace import settings
from retrace.errors import DataError
from retrace.pipeline import yaml_files

SOURCE = Path("src")
ENGINE = "retrace"

Imports = Mapping[str, Iterable[str]]  # module -> the modules that it imports


class StaleDep(NamedTuple):
    """A missing or superfluous entry in a stage's `deps:`."""

    stage: str
    entry: str
    is_missing: bool

    def __str__(self) -> str:
        if self.is_missing:
            return f"{self.stage}: deps lack {self.entry}"
        return f"{self.stage}: deps have {self.entry}, which the stage does not import"


def packages() -> list[str]:
    """List the packages under src/ whose modules are dependencies."""
    names = sorted(init.parent.name for init in SOURCE.glob("*/__init__.py"))
    return [name for name in names if name != ENGINE]


def direct_imports(names: Iterable[str]) -> dict[str, set[str]]:
    """Return, for each module of these packages, the modules of these packages that it imports."""
    import grimp

    imports = grimp.build_graph(*names, cache_dir=None)
    return {m: set(imports.find_modules_directly_imported_by(m)) for m in imports.modules}


def imported_by(source: str, imports: Imports) -> set[str]:
    """Return the modules that a script's text imports, including imports inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return {module for module in modules if module in imports}


def reachable(modules: Iterable[str], imports: Imports) -> set[str]:
    """Return these modules and all modules that they import, directly or indirectly."""
    seen: set[str] = set()
    left = list(modules)
    while left:
        module = left.pop()
        if module not in seen:
            seen.add(module)
            left.extend(imports[module])
    return seen


def code_deps(script: str, declared: Iterable[str], imports: Imports) -> list[str]:
    """List the code that the stage of `script` depends on, as entries of `deps:`.

    A folder or a path with `${...}` in `declared` stands for all files that it matches, if the
    script imports any of them: a path with `${...}` names the one file that is chosen.
    """
    source = Path(script).read_text(encoding="utf-8")
    files = {_file(module) for module in reachable(imported_by(source, imports), imports)}
    files = {file for file in files if not _is_empty_package(file)}
    patterns = {
        entry: re.sub(r"\$\{[^}]*\}", "*", entry) if "${" in entry else f"{entry}/*"
        for entry in declared
        if is_code(entry) and ("${" in entry or not entry.endswith(".py"))
    }
    kept = set()
    for entry, pattern in patterns.items():
        matched = {file for file in files if fnmatch(file, pattern)}
        if matched:
            kept.add(entry)
            files -= matched
    return [script, *sorted(kept | files)]


def declared(folder: Path = Path()) -> dict[str, dict[str, Any]]:
    """Return the stages of dvc.yaml as written, without replacing `${...}`. Raises DataError."""
    file = folder / settings.DVC_YAML
    try:
        return yaml_files.parse(file.read_text(encoding="utf-8"))["stages"]
    except yaml_files.INVALID as error:
        reason = " ".join(str(error).split())
        message = f"{file}: is not valid: {reason}; `git diff {file}` shows what changed"
        raise DataError(message) from None


def is_code(entry: str) -> bool:
    """Return whether an entry of `deps:` is code of a package, whose imports are known."""
    return entry.startswith(f"{SOURCE}/")


def stale_deps(stage: str, declared: Iterable[str], needed: Iterable[str]) -> list[StaleDep]:
    """List the differences between the code in a stage's `deps:` and the code that it needs.

    Code outside of src/, which only a stage of a user's own has, is never superfluous.
    """
    declared = set(declared)
    needed = set(needed)
    listed = {entry for entry in declared if is_code(entry)} | declared & needed
    missing = [StaleDep(stage, entry, is_missing=True) for entry in sorted(needed - listed)]
    return missing + [StaleDep(stage, e, is_missing=False) for e in sorted(listed - needed)]


def scripts(folder: Path = Path()) -> dict[str, tuple[str, list[str]]]:
    """Return, for each stage that runs a Python script and has `deps:`, the script and those."""
    stages = {}
    for name, stage in declared(folder).items():
        words = str(stage.get("cmd", "")).split()  # one of `foreach` has none
        script = next((word for word in words if word.endswith(".py")), None)
        deps = stage.get("deps")
        if script and deps and "wdir" not in stage and (folder / script).exists():
            stages[name] = (script, list(deps))
    return stages


def check() -> list[StaleDep]:
    """List the stale code deps of dvc.yaml in the working directory."""
    imports = direct_imports(packages())
    stale = []
    for name, (script, declared) in scripts().items():
        stale += stale_deps(name, declared, code_deps(script, declared, imports))
    return stale


def updated(text: str, imports: Imports) -> str:
    """Return dvc.yaml's text with corrected code deps for each stage, and data deps after them."""
    lines = text.splitlines(keepends=True)
    needed = {n: (code_deps(s, d, imports), d) for n, (s, d) in scripts().items()}
    for name, first, last in reversed(list(_deps_lines(text))):
        if name in needed:
            code, declared = needed[name]
            data = [entry for entry in declared if not is_code(entry) and entry not in code]
            indent = lines[first].partition("-")[0]
            lines[first:last] = [f"{indent}- {entry}\n" for entry in code + data]
    return "".join(lines)


def _deps_lines(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield each stage with `deps:`: its name, and the line numbers of its entries."""
    document = yaml.compose(text, yaml.SafeLoader)
    for name, stage in _items(_value(document, "stages")):
        deps = _value(stage, "deps")
        if deps is not None and deps.value:
            yield name, deps.value[0].start_mark.line, deps.value[-1].end_mark.line + 1


def _items(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return ((key.value, value) for key, value in pairs)


def _value(node: yaml.Node | None, name: str) -> yaml.Node | None:
    return next((value for key, value in _items(node) if key == name), None)


def _file(module: str) -> str:
    path = SOURCE.joinpath(*module.split("."))
    return f"{path}/__init__.py" if path.is_dir() else f"{path}.py"


def _is_empty_package(file: str) -> bool:
    """Return whether the file is an `__init__.py` with no more than a docstring."""
    if not file.endswith("__init__.py"):
        return False
    return len(ast.parse(Path(file).read_text(encoding="utf-8")).body) <= 1


def main() -> None:
    """Write the code deps of each stage to dvc.yaml."""
    file = Path("dvc.yaml")
    text = file.read_text(encoding="utf-8")
    file.write_text(updated(text, direct_imports(packages())), encoding="utf-8")


if __name__ == "__main__":
    main()
