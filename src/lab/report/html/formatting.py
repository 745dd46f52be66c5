"""Numbers, parameters and commands as the page writes them."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from lab.report.html.baseline import Change
from retrace.pipeline import metrics, overrides

NAMES = {
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
    "test_f1": "test F1",
    "test_calibration_error": "calibration error",
    "val_accuracy": "validation accuracy",
    "train_accuracy": "training accuracy",
}
# Last words of the names of metrics that are shares, 0..1.
SHARE = re.compile(r"accuracy|precision|recall|f1|error|score")


def metric(number: float, name: str) -> str:
    """Format a share in percent, another number with four decimals, or three digits if small."""
    if _is_share(name):
        return f"{number:.2%}"
    return f"{number:.4f}" if abs(number) >= 0.001 or number == 0 else f"{number:.3g}"


def change(metric: Change) -> str:
    """Format the difference of a metric, and whether it is better."""
    if metric.then is None or metric.now is None:
        return "new" if metric.then is None else "gone"
    by = metric.now - metric.then
    if not by:
        return "equal"
    size = f"{by * 100:+.2f} points" if _is_share(metric.name) else f"{by:+.4f}"
    if not re.search("[1-9]", size):
        size = f"{by:+.1e}"
    return f"{size}, {'better' if (by < 0) == metrics.is_minimized(metric.name) else 'worse'}"


def value(parameter: Any) -> str:
    """Format a parameter as in params.yaml."""
    if parameter is None:
        return "null"
    if isinstance(parameter, bool):
        return str(parameter).lower()
    if isinstance(parameter, list):
        return f"[{', '.join(map(value, parameter))}]"
    return str(parameter)


def flags(chosen: Mapping[str, Any]) -> list[str]:
    """Return the flags that set these values in params.yaml, for a shell: `-S lr=0.01` ..."""
    return [f"-S {shlex.quote(f'{key}={overrides.literal(each)}')}" for key, each in chosen.items()]


def _is_share(name: str) -> bool:
    return bool(SHARE.search(name.rsplit("_", 1)[-1]))
