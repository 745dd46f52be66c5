"""`retrace compare`: put experiments side by side, with a significance test."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retrace import paths, usage
from retrace.errors import RetraceError

if TYPE_CHECKING:
    from retrace.compared import Comparison

GROUP = "look"
SUMMARY = "put experiments side by side: parameters, metrics, and whether one is better on the same test samples"
EXAMPLES = (
    "retrace compare main tamed-zigs         a commit and a DVC experiment",
    "retrace compare main 4f0c2d 91ab03 --html c.html   and runs, as a page",
    "retrace compare HEAD workspace --json   what has changed, for a script",
)


def add_arguments(parser: ArgumentParser) -> None:
    usage.add_json(parser)
    text = "`workspace`, a DVC experiment, a commit, branch or tag, or a run's id in MLflow; "
    text += "the first is the baseline"
    parser.add_argument("names", nargs="+", metavar="NAME", help=text)
    parser.add_argument("--html", metavar="FILE", help="write a page with learning curves")


def run(args: Namespace) -> None:
    page = args.here / args.html if args.html else None
    compare(args.names, page, as_json=args.json)


def compare(given: Sequence[str], page: Path | None, *, as_json: bool) -> None:
    """Print the named experiments side by side; write them as a `page`, with their curves.

    Raises RetraceError if a name is not exactly one experiment's.
    """
    from retrace import compared
    from retrace.provenance.named import WANTED, Names

    if len(given) < 2:
        raise RetraceError(f"{given[0]}: is one name; give two or more: {WANTED}")
    names = Names()
    comparison = compared.of(names, [names.find(name) for name in given])
    if page:
        _write(page, comparison)
    if as_json:
        print(json.dumps(compared.as_json(comparison), indent=2, allow_nan=False))
    else:
        _print(comparison)
    if page:
        print(f"page: {page}; a browser shows it, without a network", file=sys.stderr if as_json else sys.stdout)
    elif not as_json:
        print("with their learning curves, as a page: the same with --html FILE")


def _print(comparison: Comparison) -> None:
    from retrace.compared import change, sentence, shown
    from retrace.terminal import plain, show, table

    names = [experiment.name for experiment in comparison.experiments]
    others = range(1, len(names))
    show(table(("experiment", "is"), [(each.name, each.said) for each in comparison.experiments]))
    print()
    if comparison.params:
        rows = [(key, *(value or "-" for value in values)) for key, values in comparison.params.items()]
        show(table(("parameter", *names), rows))
    else:
        print("no parameter differs")
    if comparison.files:
        print(f"code and data that differ: {', '.join(map(plain, comparison.files))}")
    print()
    top = ["metric", names[0], *(part for at in others for part in (names[at], "difference"))]
    rows = [
        (name, shown(values[0]), *(part for at in others for part in (shown(values[at]), change(values, at))))
        for name, values in comparison.metrics.items()
    ]
    show(table(top, rows, numbers=range(1, len(top))))
    print()
    n_tests = sum(test.pairs is not None for test in comparison.tests)
    for test in comparison.tests:
        print(*map(plain, sentence(test, n_tests).split("\n")), sep="\n")
    for note in comparison.notes:
        print(plain(note))


def _write(page: Path, comparison: Comparison) -> None:
    from retrace.compared import page as html

    try:
        with paths.atomic(page) as unfinished:
            unfinished.write_text(html.page(comparison), encoding="utf-8")
    except OSError as error:
        raise RetraceError(f"--html {page}: {error.strerror}; name a file that can be written") from None
