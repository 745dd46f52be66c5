"""`retrace compare`: put experiments side by side, with a significance test."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retrace.cli import arguments
from retrace.errors import RetraceError
from retrace.system import files

if TYPE_CHECKING:
    from retrace.compare.comparison import Comparison

GROUP = "look"
SUMMARY = (
    "put experiments side by side: parameters, metrics, and whether one is better on the same "
    "samples"
)
EXAMPLES = (
    "retrace compare main tamed-zigs         a commit and a DVC experiment",
    "retrace compare main 4f0c2d 91ab03 --html c.html   with runs, as a page",
    "retrace compare HEAD workspace --json   what has changed, for a script",
    "retrace compare main HEAD --markdown    the same tables, for a pull request",
)


def add_arguments(parser: ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    arguments.add_json(form)
    form.add_argument("--markdown", action="store_true", help="the same tables as Markdown")
    text = "`workspace`, a DVC experiment, a commit, branch or tag, or the id of an MLflow run; "
    text += "the first is the baseline"
    parser.add_argument("names", nargs="+", metavar="NAME", help=text)
    parser.add_argument("--html", metavar="FILE", help="write a page with learning curves")


def run(args: Namespace) -> None:
    page = args.here / args.html if args.html else None
    compare(args.names, page, as_json=args.json, as_markdown=args.markdown)


def compare(
    given: Sequence[str], page: Path | None, *, as_json: bool = False, as_markdown: bool = False
) -> None:
    """Print the named experiments side by side; write them as a `page`, with their curves.

    Raises RetraceError unless each name identifies exactly one experiment.
    """
    from retrace.compare import comparison as compared
    from retrace.compare import tables
    from retrace.provenance.resolve import WANTED, Resolver

    if len(given) < 2:
        raise RetraceError(f"{given[0]}: one name only; give two or more: {WANTED}")
    names = Resolver()
    comparison = compared.compare(names, [names.resolve(name) for name in given])
    if page:
        _write(page, comparison)
    if as_json:
        print(json.dumps(compared.as_json(comparison), indent=2, allow_nan=False))
    elif as_markdown:
        print(tables.as_markdown(comparison), end="")
    else:
        _print(comparison)
    if page:
        for_people = not (as_json or as_markdown)
        print(f"page: {page}", file=sys.stdout if for_people else sys.stderr)
    elif not (as_json or as_markdown):
        print("--html FILE writes a page with learning curves")


def _print(comparison: Comparison) -> None:
    from retrace.compare import tables
    from retrace.system.terminal import plain, show, table

    show(table(*tables.experiments(comparison)))
    print()
    if comparison.params:
        show(table(*tables.params(comparison)))
    else:
        print(tables.NO_PARAMETER)
    if comparison.files:
        print(plain(tables.files(comparison)))
    print()
    heading, rows = tables.metrics(comparison)
    show(table(heading, rows, numbers=range(1, len(heading))))
    print()
    for text in tables.conclusions(comparison):
        print(*map(plain, text.split("\n")), sep="\n")


def _write(page: Path, comparison: Comparison) -> None:
    from retrace.compare import page as html

    try:
        with files.atomic(page) as unfinished:
            unfinished.write_text(html.page(comparison), encoding="utf-8")
    except OSError as error:
        raise RetraceError(
            f"--html {page}: {error.strerror}; choose a file that can be written"
        ) from None
