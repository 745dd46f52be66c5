"""`retrace compare`: what experiments did not have in common, what they reached, and whether that is a difference."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from retrace import compared, files
from retrace.compared import Comparison, change, sentence, shown
from retrace.errors import RetraceError
from retrace.provenance.named import WANTED, Names
from retrace.terminal import escape, markdown, plain, show, table

NO_PARAMETER = "no parameter differs"

Rows = tuple[Sequence[str], Sequence[Sequence[str]]]  # a heading, and what is below it


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
        print(_markdown(comparison), end="")
    else:
        _print(comparison)
    if page:
        for_people = not (as_json or as_markdown)
        print(f"page: {page}; a browser shows it, without a network", file=sys.stdout if for_people else sys.stderr)
    elif not (as_json or as_markdown):
        print("with their learning curves, as a page: the same with --html FILE")


def _print(comparison: Comparison) -> None:
    show(table(*_experiments(comparison)))
    print()
    if comparison.params:
        show(table(*_params(comparison)))
    else:
        print(NO_PARAMETER)
    if comparison.files:
        print(_files(comparison, plain))
    print()
    top, rows = _metrics(comparison)
    show(table(top, rows, numbers=range(1, len(top))))
    print()
    for text in _conclusions(comparison):
        print(*map(plain, text.split("\n")), sep="\n")


def _markdown(comparison: Comparison) -> str:
    """Return the same as Markdown, for a pull request or an issue."""
    top, rows = _metrics(comparison)
    blocks = [
        markdown(*_experiments(comparison)),
        markdown(*_params(comparison)) if comparison.params else f"{NO_PARAMETER}\n",
        f"{_files(comparison, escape)}\n" if comparison.files else "",
        markdown(top, rows, numbers=range(1, len(top))),
        "".join(f"- {_in_one_line(text)}\n" for text in _conclusions(comparison)),
    ]
    return "\n".join(filter(None, blocks))


def _in_one_line(text: str) -> str:
    return "; ".join(escape(line.strip()) for line in text.split("\n"))


def _experiments(comparison: Comparison) -> Rows:
    return ("experiment", "is"), [(each.name, each.said) for each in comparison.experiments]


def _params(comparison: Comparison) -> Rows:
    """Return the heading and the rows of the parameters that differ."""
    names = [each.name for each in comparison.experiments]
    return ("parameter", *names), [
        (key, *(value or "-" for value in values)) for key, values in comparison.params.items()
    ]


def _metrics(comparison: Comparison) -> Rows:
    """Return the heading and the rows of the metrics: each beside its difference to the first."""
    names = [each.name for each in comparison.experiments]
    others = range(1, len(names))
    top = ("metric", names[0], *(cell for at in others for cell in (names[at], "difference")))
    return top, [
        (name, shown(values[0]), *(cell for at in others for cell in (shown(values[at]), change(values, at))))
        for name, values in comparison.metrics.items()
    ]


def _files(comparison: Comparison, quoted: Callable[[str], str]) -> str:
    return f"code and data that differ: {', '.join(map(quoted, comparison.files))}"


def _conclusions(comparison: Comparison) -> list[str]:
    """Return the results of the tests, and the notes."""
    n_tests = sum(test.pairs is not None for test in comparison.tests)
    return [*(sentence(test, n_tests) for test in comparison.tests), *comparison.notes]


def _write(page: Path, comparison: Comparison) -> None:
    from retrace.compared import page as drawn

    try:
        with files.atomic(page) as unfinished:
            unfinished.write_text(drawn.page(comparison), encoding="utf-8")
    except OSError as error:
        raise RetraceError(f"--html {page}: {error.strerror}; name a file that can be written") from None
