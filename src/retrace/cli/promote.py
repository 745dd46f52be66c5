"""`retrace promote`: give a run's model a name in MLflow's registry."""

from argparse import ArgumentParser, Namespace

GROUP = "use"
SUMMARY = (
    "give a run's model its data set's name in the registry: unless the model that has it is better"
)
EXAMPLES = (
    "retrace promote 4f0c2d                   it becomes models:/mnist@champion",
    "retrace promote 4f0c2d --as challenger   another alias",
)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_ID", help="MLflow's id of a run, or its first digits")
    parser.add_argument(
        "--as", dest="alias", default="champion", metavar="ALIAS", help="%(default)s"
    )
    text = "also if it is worse, or was tested on other data"
    parser.add_argument("--force", action="store_true", help=text)


def run(args: Namespace) -> None:
    from retrace.provenance import promotion

    promotion.promote(args.run, args.alias, force=args.force)
