"""The commands that the tests type, read from the tests' code.

A command is an argument of a call of `type`, `run` or `Popen`: a string, or a variable that the
same function binds to strings. What a test computes is a hole in it.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

HOLE = "\0"
CALLS = ("type", "run", "Popen")
SEPARATORS = r"&&|\|\||[;\n]"

Bindings = dict[str, list[ast.expr]]


def is_typed(command: str, folder: Path) -> bool:
    """Return whether a test in `folder` types `command`, perhaps with more words around it."""
    wanted = shlex.split(command)
    n = len(wanted)
    for words in _commands(folder):
        starts = (at for at, word in enumerate(words) if word == wanted[0])
        if any(_same(wanted, words[at : at + n]) for at in starts):
            return True
    return False


def _same(wanted: list[str], words: list[str]) -> bool:
    return len(wanted) == len(words) and all(map(_same_word, wanted, words))


def _same_word(wanted: str, word: str) -> bool:
    """Return whether a test's word may be the wanted one.

    A hole matches only a run's id or a server's address. A test's model of `digits` stands for one
    of `mnist`.
    """
    if word == HOLE:
        return wanted == "RUN_ID" or wanted.startswith("http://127.0.0.1:")
    pattern = ".+".join(map(re.escape, word.split(HOLE)))
    return re.fullmatch(pattern, wanted.replace("models:/mnist", "models:/digits")) is not None


@cache
def _commands(folder: Path) -> list[list[str]]:
    """Return each command that the tests type, as words."""
    commands = []
    for file in folder.rglob("test_*.py"):
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef):
                for text in _texts(function):
                    commands += [_words(command) for command in re.split(SEPARATORS, text)]
    return commands


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote that a separator has cut
        return text.split()


def _texts(function: ast.FunctionDef) -> Iterator[str]:
    bindings = _bindings(function)
    for call in ast.walk(function):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in CALLS
        ):
            yield from _joined(" ", call.args, bindings)


def _bindings(function: ast.FunctionDef) -> Bindings:
    """Return what each variable of a test may be: assigned, from a loop, or from `parametrize`."""
    bindings: Bindings = {}
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=value):
                bindings.setdefault(name, []).append(value)
            case ast.For(target=ast.Name(name), iter=ast.Tuple(values) | ast.List(values)):
                bindings.setdefault(name, []).extend(values)
            case ast.Call(
                func=ast.Attribute(attr="parametrize"),
                args=[ast.Constant(str() as name), ast.List(values)],
            ):
                bindings.setdefault(name, []).extend(values)
            case ast.Call(
                func=ast.Attribute(attr="parametrize"),
                args=[ast.Tuple([ast.Constant(str() as name), *_]), ast.List(rows)],
            ):
                bindings.setdefault(name, []).extend(
                    row.elts[0] for row in rows if isinstance(row, ast.Tuple)
                )
    return bindings


def _strings(node: ast.expr, bindings: Bindings) -> list[str]:
    """Return all strings that an expression may be."""
    strings = [HOLE]
    match node:
        case (
            ast.Constant(str() as text) | ast.BinOp(op=ast.Div(), right=ast.Constant(str() as text))
        ):
            strings = [text]  # also BIN / "retrace"
        case ast.Name(name) if name in bindings:
            others = {other: values for other, values in bindings.items() if other != name}
            strings = [text for value in bindings[name] for text in _strings(value, others)]
        case ast.JoinedStr(parts):
            strings = _joined("", parts, bindings)
        case ast.List(parts) | ast.Tuple(parts):
            strings = _joined(" ", parts, bindings)
        case (
            ast.FormattedValue(value)
            | ast.Starred(value)
            | ast.Call(func=ast.Attribute(value=value, attr="replace" | "split"))
        ):
            strings = _strings(value, bindings)
    return strings


def _joined(separator: str, parts: list[ast.expr], bindings: Bindings) -> list[str]:
    return [separator.join(each) for each in product(*(_strings(part, bindings) for part in parts))]
