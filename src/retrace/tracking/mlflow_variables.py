"""The environment by which MLflow clients in a stage's command find the store.

It is a default only: what the user or the code of the stage sets itself is kept, and its runs are
found in other ways (`store.adoption`, `tracking.other_stores`).
"""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from retrace.event_log import Event
from retrace.store import names, run_context, tracking_uri
from retrace.system.processes import Identity
from retrace.tracking import loopback

CONTEXT = "MLFLOW_RUN_CONTEXT"
URI = "MLFLOW_TRACKING_URI"
EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"
QUIET = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"  # MLflow prints links to a server, not to a file
PROXIES = ("http_proxy", "all_proxy")
DOTENV = re.compile(r"^\s*(?:export\s+)?(MLFLOW_\w+)\s*=", re.MULTILINE)


def variables(start: Event, dvc: Identity, folder: Path) -> dict[str, str]:
    """Return the variables of a command of the attempt, which DVC runs in `folder`."""
    env = os.environ
    own = {name for name in env if name.startswith("MLFLOW_")} | _in_dotenv(folder)
    added = {CONTEXT: _context(env.get(CONTEXT), start)}
    store = tracking_uri.address()
    if URI in own - env.keys():
        return added
    if tracking_uri.is_database(store):
        added[URI] = loopback.address(dvc, start["id"])
        added[tracking_uri.BEHIND] = store
        added |= {} if QUIET in own else {QUIET: "true"}
        added |= _without_proxy(env)
    if own.isdisjoint((EXPERIMENT, "MLFLOW_EXPERIMENT_ID")):
        added[EXPERIMENT] = names.storable(start["mlflow_experiment"], names.MAX_EXPERIMENT)
    return added


def _context(own: str | None, start: Event) -> str:
    """Return the tags of a stage's runs as JSON, with those that the user has set."""
    tags = run_context.tags(start)
    with suppress(ValueError, TypeError):
        tags = {**json.loads(own or "{}"), **tags}
    return json.dumps(tags)


def _in_dotenv(folder: Path) -> set[str]:
    """Return the variables of MLflow in the .env file that python-dotenv would find.

    It does not replace variables that exist, so ours would hide what the user has set there.
    """
    for each in (folder, *folder.parents):
        with suppress(OSError):
            return set(DOTENV.findall((each / ".env").read_text(errors="replace")))
    return set()


def _without_proxy(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that exempt this machine from a proxy, if there is one."""
    if not any(name in env or name.upper() in env for name in PROXIES):
        return {}
    usual = env.get("no_proxy") or env.get("NO_PROXY")
    exempt = f"{usual},{loopback.HOST}" if usual else loopback.HOST
    return {"no_proxy": exempt, "NO_PROXY": exempt}
