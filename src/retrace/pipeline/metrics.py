"""Tell whether a metric should be high or low, and read DVC's metrics files."""

import json
import re
from typing import Literal

from retrace.pipeline import overrides

Direction = Literal["minimize", "maximize"]

# scikit-learn's convention (*_score and *_accuracy up, *_loss and *_error down), and common names.
MINIMIZED = re.compile(
    r"(^|[^a-z0-9])(m?(log)?loss|m?error|error_rate|divergence|deviance|perplexity|r?mse|mae|mape"
    r"|s|ms|seconds|latency)$",
    re.IGNORECASE,
)
MAXIMIZED = re.compile(r"(^|[^a-z0-9])(neg_\w+|\w+_per_(s|ms|seconds))$", re.IGNORECASE)


def is_minimized(name: str) -> bool:
    """Return whether a lower value of a metric is better, by its name."""
    return bool(MINIMIZED.search(name)) and not MAXIMIZED.search(name)


def direction(name: str) -> Direction:
    """Return Optuna's optimization direction of a metric."""
    return "minimize" if is_minimized(name) else "maximize"


def parse_metrics(content: bytes | str) -> dict[str, float]:
    """Return the numbers of a JSON metrics file by dotted key; none if it is not an object.

    Raises ValueError if it is not JSON.
    """
    values = json.loads(content)
    flat = overrides.flatten(values) if isinstance(values, dict) else {}
    return {key: value for key, value in flat.items() if isinstance(value, int | float)}
