"""`retrace compare`: what experiments did not have in common, what they reached, and whether that is a difference."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from retrace import compared, paths
from retrace.compared import Comparison, change, sentence, shown
from retrace.errors import RetraceError
from retrace.provenance.named import WANTED, Resolver
from retrace.terminal import plain, show, table


def compare(given: Sequence[str], page: Path | None, *, as_json: bool) -> None:
    """Print the experiments that are called so, side by side; and write them as a `page`, with their curves. Raises
    RetraceError where a name is not one experiment's.
    """
    if len(given) < 2:
        raise RetraceError(f"{given[0]}: is one name; give two or more: {WANTED}")
    names = Resolver()
    comparison = compared.of(names, [names.resolve(name) for name in given])
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
    names, others = [each.name for each in comparison.experiments], range(1, len(comparison.experiments))
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
    from retrace.compared import page as drawn

    try:
        with paths.atomic(page) as unfinished:
            unfinished.write_text(drawn.page(comparison), encoding="utf-8")
    except OSError as error:
        raise RetraceError(f"--html {page}: {error.strerror}; name a file that can be written") from None
