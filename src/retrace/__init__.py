"""Your DVC pipeline in MLflow: each number traced to its data, code and parameters.

    import retrace

    with retrace.stage("train") as run:
        run.metrics({"loss": 0.25}, step=1)

The rooms, in the order in which data flows through them:

    errors        what a user can fix: one line, exit code 2
    settings      the files of a pipeline that are known by name
    plugins       commands, checks and packagers of other packages, by entry points
    system/       processes and locks, atomic files, memory, tables on a terminal, redaction
    pipeline/     DVC and git: stages, parameters, hashes, identity, the queue
    event_log     what a stage did, in a file that outlives the process and any server
    checkpoint    crash-safe state of a training
    store/        MLflow: runs, uploads, cached stages, models, the registry
    tracking/     a running stage: its event log and its background uploader
    provenance/   from a run, a file or a name to what made it; reproduction
    compare/      experiments side by side, significance tests, the leaderboard
    sweeps/       Optuna studies whose trials are DVC experiments
    doctor/       what can be wrong, a file a topic
    cli/          `retrace`, a file a command
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrace.tracking.stage import stage

__all__ = ["stage"]


def __getattr__(name: str) -> object:
    # On first use only: without it, `retrace --help` starts in 0.06 s.
    if name == "stage":
        from retrace.tracking.stage import stage

        return stage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
