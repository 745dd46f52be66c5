"""The parser of `retrace`: help on one screen, one line per mistake, completion in the shell."""

import difflib
import sys
import textwrap
from argparse import (
    REMAINDER,
    Action,
    ArgumentError,
    ArgumentParser,
    Namespace,
    RawDescriptionHelpFormatter,
    _ActionsContainer,
)
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

WIDTH = 78
SHELLS = ("bash", "zsh", "tcsh")
GROUPS = ("run", "look", "use", "share", "trust", "repair")  # in the order of the help
JSON = "print one JSON document, for scripts"
FIRST_LINE = "usage: retrace [--help] [--version] [--print-completion SHELL] COMMAND ..."
LAST_LINES = "Exit codes: 0 done, 1 check failed, 2 error, 130 interrupted, 143 terminated."

LIST_RECIPES = 'retrace recipe 2> /dev/null | cut -d " " -f 1'
RECIPES = {  # run when Tab is pressed, so that a new recipe is offered at once
    "bash": f'_retrace_recipes() {{ compgen -W "$({LIST_RECIPES})" -- "$1"; }}',
    "zsh": f"_retrace_recipes() {{ compadd -- $({LIST_RECIPES}) }}",
}


class Command(Protocol):
    """A module that is a command of `retrace`."""

    GROUP: str  # in the help
    SUMMARY: str  # the part before its first colon is the command's line in the help
    EXAMPLES: Sequence[str]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the command's arguments and options. The module imports nothing heavy for this."""
        ...

    def run(self, args: Namespace) -> int | None:
        """Run the command in the repository's root and return its exit code; None means 0.

        The commands of `main.IN_PLACE` run in the folder in which they were typed.

        `args.here` is the folder in which the user typed it.
        """
        ...


ATTRIBUTES = ("GROUP", "SUMMARY", "EXAMPLES", "add_arguments", "run")  # of a command


class Parser(ArgumentParser):
    """A parser that exits with 2 on a mistake, with one line that names the nearest word."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see `{self.prog} --help`", file=sys.stderr)
        sys.exit(2)

    def _check_value(self, action: Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(choices)}"
            kind = str(action.metavar or action.dest).lower()
            raise ArgumentError(None, f"unknown {kind} {value!r}: {hint}")


class Root(Parser):
    """The parser of the program itself: its help has one line per command, in groups."""

    commands: Mapping[str, Command]

    def format_help(self) -> str:
        groups = dict.fromkeys([*GROUPS, *(command.GROUP for command in self.commands.values())])
        rows = [row for group in groups for row in self._rows(group)]
        return "\n".join([FIRST_LINE, "", *rows, "", LAST_LINES, ""])

    def _rows(self, group: str) -> Iterable[str]:
        label = group
        for name, command in self.commands.items():
            if group == command.GROUP:
                yield f"{label:6} {name:12} {short(command.SUMMARY)}"
                label = ""


def parser(commands: Mapping[str, Command]) -> Root:
    """Build the parser of the program and of each command."""
    root = Root("retrace")
    root.commands = commands
    root.add_argument("--version", action="store_true")
    root.add_argument("--print-completion", choices=SHELLS, metavar="SHELL")
    root.set_defaults(command=None)
    subparsers = root.add_subparsers(metavar="COMMAND", parser_class=Parser)
    for name, command in commands.items():
        _add(subparsers, name, command)
    return root


def _add(subparsers: Any, name: str, command: Command) -> None:
    parser = subparsers.add_parser(
        name,
        help=short(command.SUMMARY),
        description=textwrap.fill(command.SUMMARY, WIDTH),
        epilog="\n  ".join(["examples:", *command.EXAMPLES]),
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=name)
    command.add_arguments(parser)


def add_json(parser: _ActionsContainer) -> None:
    """Add --json, with which a command prints one JSON document instead of text."""
    parser.add_argument("--json", action="store_true", help=JSON)


def add_words(parser: ArgumentParser, metavar: str, text: str) -> None:
    """Add all words up to the end of the line, options too, for another program."""
    parser.add_argument("words", nargs=REMAINDER, metavar=metavar, help=text)


def words(args: Namespace) -> list[str]:
    """Return the words of `add_words`, without the -- before them."""
    return args.words[1:] if args.words[:1] == ["--"] else args.words


def short(summary: str) -> str:
    """Return a summary up to its first colon: what follows is only in the command's own help."""
    return summary.partition(": ")[0]


def completion(parser: ArgumentParser, shell: str) -> str:
    """Return a shell script that completes commands, options, recipes and files on Tab."""
    import shtab

    for action in _actions(parser):
        if action.dest == "target":
            vars(action)["complete"] = shtab.FILE  # an attribute that shtab reads
        elif action.metavar == "RECIPE":
            vars(action)["complete"] = dict.fromkeys(RECIPES, "_retrace_recipes")
    preamble: Any = RECIPES  # its type says str, but it takes a dict by shell
    return shtab.complete(parser, shell, preamble=preamble)


def _actions(parser: ArgumentParser) -> Iterable[Action]:
    """Yield the actions of a parser and of all its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action.choices, Mapping):
            for command in action.choices.values():
                yield from _actions(command)
