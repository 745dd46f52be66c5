"""A sweep as a picture: every trial a line across its parameters to what it reached, and which parameter matters."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import OptunaError
from optuna.importance import FanovaImportanceEvaluator
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from retrace.figures import style
from retrace.sweeps.space import Axis

ENOUGH = 4  # complete trials, to tell what matters
COLOURS = colormaps["viridis_r"].resampled(256)
ABSENT = -0.12  # where a line goes by an axis on which the trial has no value
LEGIBLE = 12  # choices written beside an axis


def draw(study: optuna.Study, axes: Mapping[str, Axis], metric: str, path: Path) -> None:
    """`path` is the picture, of one complete trial or more."""
    trials = [each for each in study.get_trials(deepcopy=False) if each.params and each.value is not None]
    complete = [each for each in trials if each.state is TrialState.COMPLETE]
    importance = _importance(study, complete)
    figure = Figure(figsize=(max(7.0, 2.2 * (len(axes) + 1)) + (3.2 if importance else 0), 4.8), layout="constrained")
    n_pruned = sum(each.state is TrialState.PRUNED for each in trials)
    best = study.best_trial
    style.headline(
        figure,
        f"{study.study_name}: {len(complete)} trials to the end, {n_pruned} pruned (dotted); "
        f"best {metric} {best.value:.4f}, of trial {best.number}",
    )
    wide = 1.2 * (len(axes) + 1)
    panels = figure.subplots(1, 2, width_ratios=[wide, 2.0]) if importance else [figure.subplots()]
    better = 1 if study.direction is StudyDirection.MAXIMIZE else -1
    _parallel(figure, panels[0], trials, axes, metric, best, better)
    if importance:
        _bars(panels[1], importance)
    style.save(figure, path)


def _parallel(
    figure: Figure,
    plot: Axes,
    trials: Sequence[FrozenTrial],
    axes: Mapping[str, Axis],
    metric: str,
    best: FrozenTrial,
    better: int,
) -> None:
    values = np.array([each.value for each in trials if each.state is TrialState.COMPLETE], dtype=float)
    low, high = float(values.min()), float(values.max())
    margin = (high - low) * 0.02 or max(abs(high), 1e-9) * 0.02
    norm = Normalize(low - margin, high + margin, clip=True)
    # The colours are by rank: one bad loss would make all others the same.
    for each in sorted(trials, key=lambda each: better * (each.value or 0.0)):
        at = [*(_place(axis, each.params.get(key)) for key, axis in axes.items()), float(norm(each.value or 0.0))]
        rank = float(np.mean(better * values <= better * (each.value or 0.0)))
        _line(plot, at, rank, is_whole=each.state is TrialState.COMPLETE, is_best=each.number == best.number)
    for x, (key, axis) in enumerate(axes.items()):
        ticks = [(_place(axis, tick), _said(tick)) for tick in _ticks(axis)]
        unread = [(ABSENT, "not read")] if any(key not in each.params for each in trials) else []
        _axis(plot, x, ticks + unread)
    _axis(plot, len(axes), [(float(norm(value)), f"{value:.4g}") for value in np.linspace(low, high, 5)], right=True)
    lowest = ABSENT if any(len(each.params) < len(axes) for each in trials) else 0.0
    _frame(figure, plot, [*(key.removeprefix("models.") for key in axes), metric], lowest)


def _line(plot: Axes, at: Sequence[float], rank: float, *, is_whole: bool, is_best: bool) -> None:
    """A trial across the axes, the better, the darker; `rank` is the share of trials that are no better."""
    plot.plot(
        range(len(at)),
        at,
        color=COLOURS(rank) if is_whole else style.GUIDE,
        linewidth=2.6 if is_best else 1.2,
        linestyle="-" if is_whole else ":",
        alpha=1.0 if is_best else 0.75,
        zorder=3 if is_best else 2 if is_whole else 1,
    )


def _frame(figure: Figure, plot: Axes, names: Sequence[str], lowest: float) -> None:
    """The axes' names below them, and what the colours say; no box around."""
    plot.set_xticks(range(len(names)), names)
    plot.set(xlim=(-0.25, len(names) - 0.6), ylim=(lowest - 0.05, 1.06), yticks=[])
    for side in plot.spines.values():
        side.set_visible(False)
    plot.tick_params(axis="x", length=0, pad=6)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLOURS), ax=plot, shrink=0.5, aspect=25, location="bottom")
    bar.set_ticks([0, 1], labels=["worst trial", "best trial"])
    bar.ax.spines["outline"].set_visible(False)


def _axis(plot: Axes, x: int, ticks: Sequence[tuple[float, str]], *, right: bool = False) -> None:
    plot.plot([x, x], [0, 1], color=style.RIGHT, linewidth=1, zorder=4)
    for y, said in ticks:
        plot.plot([x - 0.015, x + 0.015], [y, y], color=style.RIGHT, linewidth=1, zorder=4)
        plot.annotate(
            style.short(said),
            (x, y),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            ha="left",
            fontsize=8,
            zorder=5,
            bbox={"facecolor": "white", "alpha": 0.85 if not right else 0, "edgecolor": "none", "pad": 0.5},
        )


def _place(axis: Axis, value: Any) -> float:
    """Where on an axis from 0 to 1 the value is."""
    if value is None:
        return ABSENT
    if isinstance(axis, CategoricalDistribution):
        return axis.choices.index(value) / max(1, len(axis.choices) - 1)
    scale = math.log if axis.log else float
    return (scale(value) - scale(axis.low)) / (scale(axis.high) - scale(axis.low))


def _ticks(axis: Axis) -> Sequence[Any]:
    if isinstance(axis, CategoricalDistribution):
        step = -(-len(axis.choices) // LEGIBLE)
        return axis.choices[::step]
    low, high = axis.low, axis.high
    if axis.log:
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        inner = [10.0**power for power in powers if low < 10.0**power * (1 + 1e-9) and 10.0**power < high * (1 - 1e-9)]
        return [low, *(each for each in inner if each > low * 1.3 and each < high / 1.3), high]
    return sorted({type(low)(each) for each in np.linspace(low, high, 5)})


def _said(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _importance(study: optuna.Study, complete: Sequence[FrozenTrial]) -> dict[str, float]:
    """The share of the metric's variance that is each parameter's; empty where too little is known."""
    if len(complete) < ENOUGH or len({each.value for each in complete}) == 1:
        return {}
    try:
        return optuna.importance.get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    except (OptunaError, ValueError, RuntimeError):  # as where all trials have the same parameters
        return {}


def _bars(plot: Axes, importance: Mapping[str, float]) -> None:
    names, shares = list(importance)[::-1], list(importance.values())[::-1]
    bars = plot.barh(names, shares, color=style.COLOURS[0], height=0.6)
    plot.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3, fontsize=9)
    plot.set(title="importance (fANOVA)", xlim=(0, 1.15), xticks=[])
    plot.spines["bottom"].set_visible(False)
    plot.tick_params(axis="y", length=0)
