"""`retrace leaderboard`: print the DVC experiments in an MLflow experiment, best first."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retrace.cli import arguments
from retrace.system.text import count

if TYPE_CHECKING:
    from retrace.compare.leaderboard import Board, Row

GROUP = "look"
SUMMARY = "list the experiments, best first: seeds, mean, spread, seconds of training"
EXAMPLES = (
    "retrace leaderboard          of this MLflow experiment, by the primary metric",
    "retrace leaderboard --metric rmse --top 5",
    "retrace leaderboard --metric cost --minimize   the lowest first",
    "retrace leaderboard --json   with all parameters and ids, for a script",
)


def add_arguments(parser: ArgumentParser) -> None:
    arguments.add_json(parser)
    text = "MLflow experiment (default: the current one)"
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help=text)
    text = "metric to sort by (default: the setting metrics.primary)"
    parser.add_argument("--metric", help=text)
    direction = parser.add_mutually_exclusive_group()
    text = "lower is better (default: by the metric's name and the setting metrics.minimize)"
    direction.add_argument("--minimize", action="store_true", default=None, help=text)
    text = "higher is better"
    direction.add_argument(
        "--maximize", action="store_false", dest="minimize", default=None, help=text
    )
    text = "number of rows to show (default: %(default)s)"
    parser.add_argument("--top", type=int, default=20, metavar="N", help=text)


def run(args: Namespace) -> None:
    lead(args.experiment, args.metric, args.top, as_json=args.json, minimize=args.minimize)


def lead(
    experiment: str | None,
    metric: str | None,
    top: int,
    *,
    as_json: bool,
    minimize: bool | None = None,
) -> None:
    """Print the `top` rows by `metric`. Raises RetraceError as `leaderboard.board` does."""
    from retrace.compare import leaderboard

    board = leaderboard.board(experiment, metric, top, is_minimized=minimize)
    if as_json:
        print(json.dumps(_document(board), indent=2, allow_nan=False))
    else:
        _print(board)


def _print(board: Board) -> None:
    from retrace.system.terminal import plain, show, table

    statistics = (board.order.metric, "std", "min..max", "n", "training, s")
    top = ("", *statistics, "newest", "run", "differs from the workspace")
    rows = [_cells(rank, row, board) for rank, row in enumerate(board.rows, 1)]
    show(table(top, rows, numbers=(0, 1, 2, 4, 5)))
    n_more = board.n_rows - len(rows)
    more = f"; {count(n_more, 'more row')}: --top {board.n_rows}" if n_more else ""
    order = "lowest" if board.order.is_minimized else "highest"
    mean = f"mean of {plain(board.order.metric)} over n seeds"
    print(f"\n{board.experiment}, by the {mean}, {order} first{more}")
    if board.left_out:
        reasons = (f"{n} {plain(reason)}" for reason, n in sorted(board.left_out.items()))
        print(f"left out: {', '.join(reasons)}")
    ids = [row.runs[-1].info.run_id[:8] for row in board.rows[:2]]
    if len(ids) > 1:
        print(f"side by side: retrace compare {' '.join(ids)}")
    else:
        print(f"what made it: retrace trace {ids[0]}")


def _cells(rank: int, row: Row, board: Board) -> list[str]:
    spread = "" if row.std is None else f"{row.std:.2g}"
    span = f"{min(row.values):.6g}..{max(row.values):.6g}" if row.std is not None else ""
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    changes = ", ".join(f"{key}={value}" for key, value in board.changes(row).items())
    newest = f"{row.newest.astimezone():%Y-%m-%d}"
    run = row.runs[-1].info.run_id[:8]
    return [
        str(rank),
        f"{row.mean:.6g}",
        spread,
        span,
        str(len(row.runs)),
        seconds,
        newest,
        run,
        changes,
    ]


def _document(board: Board) -> dict[str, Any]:
    timed = f"{board.training[0]}_s" if len(board.training) == 1 else "training_s"
    return {
        "experiment": board.experiment,
        "metric": board.order.metric,
        "better": "less" if board.order.is_minimized else "more",
        "n_rows": board.n_rows,
        "left_out": board.left_out,
        "rows": [
            {
                "mean": row.mean,
                "std": row.std,
                "least": min(row.values),
                "most": max(row.values),
                timed: row.seconds,
                "newest": row.newest.isoformat(),
                "runs": [
                    {"run_id": run.info.run_id}
                    | _params(board, run.data.params, are_repeats=True)
                    | {board.order.metric: value}
                    for run, value in zip(row.runs, row.values, strict=True)
                ],
                "params": _params(board, row.runs[-1].data.params, are_repeats=False),
                "changes": board.changes(row),
            }
            for row in board.rows
        ],
    }


def _params(board: Board, params: Mapping[str, str], *, are_repeats: bool) -> dict[str, str]:
    """Return the seeds among the parameters of a run, or the others."""
    return {
        key: value for key, value in params.items() if board.order.is_repeat(key) == are_repeats
    }
