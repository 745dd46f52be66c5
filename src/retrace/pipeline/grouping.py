"""Where MLflow shows an experiment: the name of the MLflow experiment, and the group it is in."""

import re
from collections.abc import Mapping
from typing import Any

from retrace.errors import ParamsError
from retrace.pipeline.workspace import Workspace
from retrace.settings import Settings
from retrace.system import files

REFERENCE = re.compile(r"\$\{([^}]*)\}")


def of(workspace: Workspace, settings: Settings) -> dict[str, Any]:
    """Return the MLflow experiment and the group of the pipeline's state, for an event log.

    Raises ParamsError if the setting `experiment` names a parameter that no stage reads.
    """
    params = workspace.params(*workspace.pipeline.stages.values())
    return {
        "mlflow_experiment": mlflow_experiment(settings, params),
        "group": _group(workspace, settings, params),
    }


def mlflow_experiment(settings: Settings, params: Mapping[str, Any]) -> str:
    """Return the name of the MLflow experiment; by default that of the repository's folder."""

    def value(reference: re.Match[str]) -> str:
        try:
            return str(params[reference[1]])
        except KeyError:
            problem = f"no stage reads the parameter {reference[1]!r}"
            advice = f"should be one of {', '.join(params)}"
            raise ParamsError(f"setting experiment: {problem}; {advice}") from None

    return REFERENCE.sub(value, settings.experiment or files.root().name)


def _group(
    workspace: Workspace, settings: Settings, params: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the group: its key, its size, and the stages that all of its experiments need.

    These are the stages that make the metrics, of which the group's run shows the means.
    """
    groups = settings.groups
    if groups is None or int(params.get(groups.of, 1)) <= 1:
        return None
    makers = workspace.pipeline.makers
    return {
        "key": workspace.key(without={groups.over}),
        "over": groups.over,
        "of": groups.of,
        "size": int(params[groups.of]),
        "stages": [makers[file] for file in workspace.pipeline.metrics_files if file in makers],
    }
