"""Format the tables of a comparison, for a terminal or as Markdown."""

from collections.abc import Sequence

from retrace.compare.comparison import Comparison, change, sentence, shown
from retrace.system.terminal import escape, markdown, plain

NO_PARAMETER = "no parameter differs"

Rows = tuple[Sequence[str], Sequence[Sequence[str]]]  # a heading, and the rows below it


def as_markdown(comparison: Comparison) -> str:
    """Return the whole comparison as Markdown, for a pull request or an issue."""
    heading, rows = metrics(comparison)
    blocks = [
        markdown(*experiments(comparison)),
        markdown(*params(comparison)) if comparison.params else f"{NO_PARAMETER}\n",
        f"{escape(files(comparison))}\n" if comparison.files else "",
        markdown(heading, rows, numbers=range(1, len(heading))),
        "".join(f"- {_in_one_line(text)}\n" for text in conclusions(comparison)),
    ]
    return "\n".join(filter(None, blocks))


def experiments(comparison: Comparison) -> Rows:
    """Return each experiment's name and description."""
    return ("experiment", "is"), [(each.name, each.description) for each in comparison.experiments]


def params(comparison: Comparison) -> Rows:
    """Return the parameters that differ."""
    names = [each.name for each in comparison.experiments]
    rows = [(key, *(value or "-" for value in values)) for key, values in comparison.params.items()]
    return ("parameter", *names), rows


def metrics(comparison: Comparison) -> Rows:
    """Return the metrics, each beside its difference to the first experiment."""
    names = [each.name for each in comparison.experiments]
    others = range(1, len(names))
    heading = ("metric", names[0], *(cell for at in others for cell in (names[at], "difference")))
    rows = [
        (
            name,
            shown(values[0]),
            *(cell for at in others for cell in (shown(values[at]), change(values, at))),
        )
        for name, values in comparison.metrics.items()
    ]
    return heading, rows


def files(comparison: Comparison) -> str:
    """Return a line with the code and data that differ."""
    return f"code and data that differ: {', '.join(comparison.files)}"


def conclusions(comparison: Comparison) -> list[str]:
    """Return the results of the tests, and the notes."""
    n_tests = sum(test.pairs is not None for test in comparison.tests)
    return [*(sentence(test, n_tests) for test in comparison.tests), *map(plain, comparison.notes)]


def _in_one_line(text: str) -> str:
    return "; ".join(escape(line.strip()) for line in text.split("\n"))
