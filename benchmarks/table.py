"""Measured figures as rows of a Markdown table, and a temporary folder to measure them in."""

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from retrace.system import files

TOP = ("figure", "target", "measured", "n")


@dataclass(frozen=True)
class Figure:
    """A figure measured `n` times, and its largest allowed value."""

    name: str
    measured: float
    unit: str
    n: int
    target: float | None = None

    @property
    def missed(self) -> bool:
        return self.target is not None and self.measured > self.target


def measure(
    text: str, known: Mapping[str, tuple[Callable[[Path, int], Iterable[Figure]], int]]
) -> None:
    """Run a benchmark's command line; `text` is the program's docstring.

    Measures the named figures, or all `known` ones, each `--n` times or as often as `known` gives.
    Exits with 1 if a target is missed.
    """
    parser = ArgumentParser(description=text.partition("\n")[0])
    parser.add_argument("figure", nargs="*", help=f"only these figures, of {', '.join(known)}")
    parser.add_argument("--n", type=int, help="number of repetitions (default: each figure's own)")
    args = parser.parse_args()
    if unknown := set(args.figure) - known.keys():
        parser.error(f"unknown figure {min(unknown)!r}; should be one of {', '.join(known)}")
    with place() as folder:
        chosen = (known[name] for name in args.figure or known)
        sys.exit(show(chain.from_iterable(figures(folder, args.n or n) for figures, n in chosen)))


def show(figures: Iterable[Figure]) -> bool:
    """Print each figure as soon as it is measured; return whether one is missed."""
    head(*TOP)
    missed = False
    for figure in figures:
        missed |= figure.missed
        print(row(figure), flush=True)
    return missed


def head(*names: str) -> None:
    """Print the header of the table."""
    print(line(*names), line(*["---"] * len(names)), sep="\n", flush=True)


def row(figure: Figure) -> str:
    target = "" if figure.target is None else f"{figure.target:g} {figure.unit}"
    measured = f"{figure.measured:,}" if figure.unit == "rows" else f"{figure.measured:,.4g}"
    return line(
        figure.name,
        target,
        f"{measured} {figure.unit}{', MISSED' if figure.missed else ''}",
        f"{figure.n:,}",
    )


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def replace(page: Path, begin: str, end: str, lines: Iterable[str]) -> None:
    """Put the lines between the two marks of a page."""
    text = page.read_text(encoding="utf-8")
    before = text.index(begin) + len(begin)
    after = text.index(end)
    page.write_text(text[:before] + "\n".join(lines) + "\n" + text[after:], encoding="utf-8")


@contextmanager
def place() -> Iterator[Path]:
    """Yield a temporary folder for clones, on disk, because the system's may be in memory."""
    own = files.root() / ".retrace"
    own.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=own, prefix="benchmark-") as folder:
        yield Path(folder)
