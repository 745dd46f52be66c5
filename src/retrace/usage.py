"""How `retrace` is typed: its help on one screen, one line for what is mistyped, completion in the shell."""

import difflib
import sys
from argparse import Action, ArgumentError, ArgumentParser
from collections.abc import Iterable, Mapping
from typing import NoReturn

WIDTH = 78
SHELLS = ("bash", "zsh", "tcsh")
FIRST_LINE = "usage: retrace [--help] [--version] [--print-completion SHELL] COMMAND ..."
LAST_LINES = """\
`retrace COMMAND --help` has examples; --json is for scripts, one document.
Exit codes: 0 done; 1 a check found something; 2 refused, in a line that says
what to do; 130 interrupted; 143 terminated."""

RECIPES = {  # asked for when Tab is pressed, so that a new recipe is known at once
    "bash": '_retrace_recipes() { compgen -W "$(retrace recipe 2> /dev/null | cut -d " " -f 1)" -- "$1"; }',
    "zsh": '_retrace_recipes() { compadd -- $(retrace recipe 2> /dev/null | cut -d " " -f 1) }',
}


class Parser(ArgumentParser):
    """Says in one line what is wrong with what was typed, with what may have been meant, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; `{self.prog} --help` shows what there is", file=sys.stderr)
        sys.exit(2)

    def _check_value(self, action: Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            near = difflib.get_close_matches(str(value), list(map(str, action.choices)), n=1)
            known = f"did you mean {near[0]}?" if near else f"known are {', '.join(map(str, action.choices))}"
            kind = str(action.metavar or action.dest).lower()
            raise ArgumentError(None, f"{value!r} is no {kind}: {known}")


class Root(Parser):
    """The parser of the program itself, whose help has a line a command, by groups."""

    groups: Mapping[str, Iterable[str]]
    said: Mapping[str, str]  # what a command does, by its name

    def format_help(self) -> str:
        rows = [
            self._row(name, group) for group, names in self.groups.items() for group, name in _labelled(group, names)
        ]
        return "\n".join([FIRST_LINE, "", *rows, "", LAST_LINES, ""])

    def _row(self, name: str, group: str) -> str:
        return f"{group:6} {name:12} {short(self.said[name])}"


def short(said: str) -> str:
    """What a command does, without what stands after a colon: that is in its own help alone."""
    return said.partition(": ")[0]


def completion(parser: ArgumentParser, shell: str) -> str:
    """What the shell has to read to complete `retrace` on Tab: commands, options, recipes, files."""
    import shtab

    for action in _actions(parser):  # which shtab reads an attribute of that argparse does not have
        if action.dest == "target":
            action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
        elif action.metavar == "RECIPE":
            action.complete = dict.fromkeys(RECIPES, "_retrace_recipes")  # pyright: ignore[reportAttributeAccessIssue]
    return shtab.complete(parser, shell, preamble=RECIPES)  # pyright: ignore[reportArgumentType] - a dict it takes


def _labelled(group: str, names: Iterable[str]) -> list[tuple[str, str]]:
    """Each name with the group's, which only its first line has."""
    return [(group if number == 0 else "", name) for number, name in enumerate(names)]


def _actions(parser: ArgumentParser) -> Iterable[Action]:
    """Those of a parser and of all its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action.choices, Mapping):
            for command in action.choices.values():
                yield from _actions(command)
