"""`retrace trace`: show what produced a file, or what a run produced and where that is now."""

import os
from argparse import ArgumentParser, Namespace

from retrace.cli import arguments

GROUP = "trust"
SUMMARY = (
    "show what produced a file, or what a run produced: back to the raw data, and where the files "
    "are now"
)
EXAMPLES = (
    "retrace trace model.pkl   down to the raw data",
    "retrace trace 4f0c2d      a run, by the first digits of its id",
    "retrace trace 4f0c2d --json | jq -r '.commands[]' | sh   restores its files",
)


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)
    text = "a file, which may have been moved, or the id of an MLflow run"
    parser.add_argument("target", metavar="FILE|RUN_ID", help=text)


def run(args: Namespace) -> None:
    from retrace.provenance import lineage

    file = os.path.join(args.here, args.target)  # noqa: PTH118 - an id is not a path
    target = file if os.path.exists(file) else args.target  # noqa: PTH110
    lineage.show(target, as_json=args.json)
