"""Track a DVC pipeline in MLflow: every metric can be traced to its data, code and parameters.

    import retrace

    with retrace.stage() as run:              # the stage that DVC runs
        run.log({"loss": 0.25}, step=1)

    retrace.log({"loss": 0.25}, step=1)       # the same without a `with`

The modules and subpackages, lower layers first:

    errors        errors that a user can fix: one line, exit code 2
    settings      a repository's settings: [tool.retrace] of pyproject.toml, or retrace.toml
    plugins       commands, checks and model packagers from other packages (entry points)
    system/       processes and locks, atomic files, memory, tables on a terminal, redaction
    pipeline/     DVC and git: stages, parameters, hashes, identity, the queue
    event_log     what a stage did, in a file that outlives the process and any server
    checkpoint    crash-safe state of a training
    store/        MLflow: runs, uploads, cached stages, models, the registry
    tracking/     a running stage, from inside or as a command: event log, curves, uploader
    provenance/   finds what produced a file or run, and reproduces it
    compare/      experiments side by side, significance tests, the leaderboard
    sweeps/       Optuna studies whose trials are DVC experiments
    doctor/       the checks of `retrace doctor`, one file per topic
    cli/          `retrace`, one file per command
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrace.tracking.fluent import (
        log,
        log_artifact,
        log_model,
        log_table,
        set_tags,
        summary,
    )
    from retrace.tracking.run import Run
    from retrace.tracking.stage import stage

__all__ = [
    "Run",
    "log",
    "log_artifact",
    "log_model",
    "log_table",
    "set_tags",
    "stage",
    "summary",
]
MODULES = {"stage": "stage", "Run": "run"}  # of retrace.tracking; the other names are in fluent


def __getattr__(name: str) -> object:
    # Imported on first use only, so that `retrace --help` starts in 0.06 s.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"retrace.tracking.{MODULES.get(name, 'fluent')}")
    value = getattr(module, name)
    globals()[name] = value  # the next call does not come here
    return value
