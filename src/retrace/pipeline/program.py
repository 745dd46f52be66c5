"""The Python files of a repository that a stage's program imports, found without running it.

An import is looked up as Python does: in the program's folder, then in the PYTHONPATH that the
stage's command sets. Packages in the root and in `src/` count as installed from there.
"""

import ast
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from retrace.pipeline.definition import Stage

OURS = "retrace"  # it records stages, and does not influence their outputs
INSTALLED = ("src", ".")  # where a repository has its packages

Folders = tuple[Path, ...]
Import = tuple[str, int]  # a module, and how many levels up it starts, 0 for anywhere
Finder = Callable[[tuple[str, ...], Folders, Folders], Path | None]


class Parsed(NamedTuple):
    """What a Python file imports."""

    modules: list[Import]
    at_start: list[Import]  # before it does anything
    is_empty: bool  # it has no more than a docstring


def imported(root: Path, stage: Stage, program: str) -> set[str]:
    """Return the files with code that a Python program imports, directly or indirectly."""
    folder = root / stage.folder
    words = (word for command in stage.commands for word in command.split())
    paths = [word.partition("=")[2] for word in words if word.startswith("PYTHONPATH=")]
    search = [(root / program).parent]
    search += [folder / path for paths_ in paths for path in paths_.split(":") if path]
    packages = [root / path for path in INSTALLED]
    find = cache(_located)  # for this call: the files may change before the next
    seen: set[Path] = set()
    left = [root / program]
    while left:
        new = set(_imports(left.pop(), tuple(search), tuple(packages), find)) - seen
        seen |= new
        left += new
    inside = {file.resolve() for file in seen if not _parsed(file).is_empty} - {root / program}
    top = root.resolve()
    return {file.relative_to(top).as_posix() for file in inside if file.is_relative_to(top)}


def libraries(files: Iterable[Path]) -> set[str]:
    """Return the top-level modules that these Python files import, such as `mlflow`."""
    return {
        module.partition(".")[0]
        for file in files
        for module, level in _parsed(file).modules
        if not level
    }


def required(root: Path, stage: Stage, program: str) -> set[str]:
    """Return the modules of other packages that a program imports before it does anything."""
    files = [root / program, *(root / file for file in imported(root, stage, program))]
    modules = {
        module.partition(".")[0]
        for file in files
        for module, level in _parsed(file).at_start
        if not level
    }
    folders = ((root / program).parent, *(root / path for path in INSTALLED))
    return {
        name for name in modules - sys.stdlib_module_names if not _located((name,), folders, ())
    }


def _imports(file: Path, search: Folders, packages: Folders, find: Finder) -> Iterator[Path]:
    """Yield the files of the repository that a file imports directly."""
    for module, level in _parsed(file).modules:
        parts = tuple(module.split("."))
        if level:
            path = find(parts, (file.parents[level - 1],), ())
        else:
            path = find(parts, search, packages) if parts[0] != OURS else None
        if path:
            yield path


def _parsed(file: Path) -> Parsed:
    """Return what a file imports; a file that is not valid Python imports nothing."""
    try:
        return _parsed_at(file, file.stat().st_mtime_ns)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return Parsed([], [], is_empty=False)


@cache
def _parsed_at(file: Path, _mtime_ns: int) -> Parsed:
    """Parse a file. Stages share files, so each is parsed once."""
    tree = ast.parse(file.read_bytes())
    has_docstring = len(tree.body) == 1 and ast.get_docstring(tree) is not None
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return Parsed(
        modules=list(_imported(tree.body)),
        at_start=list(_imported(imports)),
        is_empty=not tree.body or has_docstring,
    )


def _imported(body: Iterable[ast.AST]) -> Iterator[Import]:
    """Yield each module that is imported.

    `from a import b` may import the module a.b, or a name of a: both are yielded.
    """
    for node in _statements(body):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            yield from ((".".join([*base, alias.name]), node.level) for alias in node.names)
            yield from ((module, node.level) for module in base)


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield the statements in a body and those within them; expressions import nothing."""
    for node in body:
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, name, ()))


def _located(parts: tuple[str, ...], search: Folders, packages: Folders) -> Path | None:
    """Return the file of a module in the first folder that has it.

    Folders in `packages` count only if they have its top-level package.
    """
    installed = [path for path in packages if (path / parts[0] / "__init__.py").is_file()]
    for folder in (*search, *installed):
        path = folder.joinpath(*parts)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
    return None
