"""`retrace promote`: register a run's model in MLflow's registry."""

from argparse import ArgumentParser, Namespace

GROUP = "use"
SUMMARY = (
    "register a run's model in MLflow: refused if the model that has the alias now is better on "
    "the same data"
)
EXAMPLES = (
    "retrace promote 4f0c2d                   it becomes models:/NAME@champion",
    "retrace promote 4f0c2d --as challenger   another alias",
    "retrace promote 4f0c2d --metric rmse     by a metric of another name",
)


def add_arguments(parser: ArgumentParser) -> None:
    text = "id of an MLflow run, or its first digits"
    parser.add_argument("run", metavar="RUN_ID", help=text)
    text = "alias to set (default: %(default)s)"
    parser.add_argument("--as", dest="alias", default="champion", metavar="ALIAS", help=text)
    text = "metric by which models are compared (default: the setting metrics.primary)"
    parser.add_argument("--metric", help=text)
    text = "promote the model even if it is worse, or was tested on other data"
    parser.add_argument("--force", action="store_true", help=text)


def run(args: Namespace) -> None:
    from retrace.provenance import promotion

    promotion.promote(args.run, args.alias, force=args.force, metric=args.metric)
