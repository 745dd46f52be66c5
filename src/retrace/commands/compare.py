"""`retrace compare`: what experiments did not have in common, what they reached, and whether that is a difference."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from retrace import compared, files
from retrace.compared import Comparison, tables
from retrace.errors import RetraceError
from retrace.provenance.named import WANTED, Names
from retrace.terminal import plain, show, table


def compare(given: Sequence[str], page: Path | None, *, as_json: bool = False, as_markdown: bool = False) -> None:
    """Print the experiments with these names side by side, and write them as a `page` with their curves. Raises
    RetraceError where a name is not that of exactly one experiment.
    """
    if len(given) < 2:
        raise RetraceError(f"{given[0]}: is one name; give two or more: {WANTED}")
    names = Names()
    comparison = compared.compare(names, [names.find(name) for name in given])
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
        print(f"page: {page}; a browser shows it, without a network", file=sys.stdout if for_people else sys.stderr)
    elif not (as_json or as_markdown):
        print("with their learning curves, as a page: the same with --html FILE")


def _print(comparison: Comparison) -> None:
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
    from retrace.compared import page as drawn

    try:
        with files.atomic(page) as unfinished:
            unfinished.write_text(drawn.page(comparison), encoding="utf-8")
    except OSError as error:
        raise RetraceError(f"--html {page}: {error.strerror}; name a file that can be written") from None
