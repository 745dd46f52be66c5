"""The tags by which MLflow runs of a stage's own code are connected with the stage's run.

Without importing MLflow, which takes a second: the stage's command gets the first three of them in
MLFLOW_RUN_CONTEXT, by which any MLflow client tags the runs that it makes.
"""

from retrace.event_log import Event
from retrace.store import names

ATTEMPT = "retrace.below.attempt"  # id of the attempt's event log
STAGE = "retrace.below.stage"
STAGE_RUN = "retrace.below.run"  # id of the stage's run
ORIGINAL = "retrace.original.run"  # id of a run in another store, of which this is a copy
ORIGINAL_STORE = "retrace.original.store"
ORIGINAL_EXPERIMENT = "retrace.original.experiment"
ORIGINAL_PARENT = "retrace.original.parent"

# Tags of the stage's run.
RUNS = "retrace.runs"  # names and links of the runs below it
FAILED = "retrace.failed_runs"  # names of those that FAILED, although the stage finished
STORES = "retrace.other_stores"  # addresses in the stage's code that cannot be read


def tags(start: Event) -> dict[str, str]:
    """Return the tags that each run of the stage's code gets when it is made."""
    known = {ATTEMPT: start["id"], STAGE: start["stage"]} | start["experiment"]
    return names.tags(known)
