"""`retrace trace`: show what made a file, or what a run made and where it is now."""

import os
from argparse import ArgumentParser, Namespace

from retrace.cli import arguments

GROUP = "trust"
SUMMARY = "show what made a file, or what a run made and where that is"
EXAMPLES = (
    "retrace trace models/model.safetensors   down to the raw data",
    "retrace trace 4f0c2d                     a run, by the first digits of its id",
    "retrace trace 4f0c2d --json | jq -r '.commands[]' | sh   restores its files",
)


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)
    text = "a file, wherever it lies now, or MLflow's id of a run"
    parser.add_argument("target", metavar="FILE|RUN_ID", help=text)


def run(args: Namespace) -> None:
    from retrace.provenance import lineage

    file = os.path.join(args.here, args.target)  # noqa: PTH118 - an id is no path
    target = file if os.path.exists(file) else args.target  # noqa: PTH110
    lineage.show(target, as_json=args.json)
