"""Read the words after `-S` as `dvc exp run` does: params files, values in Hydra's grammar, grids.

DVC documents the words, but not the functions that read them.
"""

from collections.abc import Iterable
from pathlib import Path

from retrace.errors import RetraceError


def set_params(file: Path, changes: Iterable[str]) -> None:
    """Change a params file as `dvc exp run -S` does, by words such as `model.width=3`.

    Raises RetraceError if DVC refuses one.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    try:
        apply_overrides(file, list(changes))
    except DvcException as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise RetraceError(f"{file.name}: DVC cannot set {', '.join(changes)}: {reason}") from None


def by_file(overrides: Iterable[str]) -> dict[str, list[str]]:
    """Return the words after `-S` by the params file that they change, without its name."""
    from dvc.utils.cli_parse import to_path_overrides

    return dict(to_path_overrides(overrides))


def expand(overrides: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the words after `-S` of each experiment that DVC would queue: `lr=1,2` makes two.

    Raises RetraceError if DVC refuses them.
    """
    from dvc.dependency.param import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import get_hydra_sweeps, to_hydra_overrides
    from hydra.errors import HydraException

    default = ParamsDependency.DEFAULT_PARAMS_FILE
    given = by_file(overrides)
    try:
        parsed = [each for words in given.values() for each in to_hydra_overrides(words)]
        is_grid = any(each.is_sweep_override() for each in parsed)
        expanded: list[dict[str, list[str]]] = get_hydra_sweeps(given) if is_grid else [given]
    except (DvcException, HydraException) as error:
        reason = " ".join(str(error).split())
        raise RetraceError(f"DVC cannot set {', '.join(overrides)}: {reason}") from None
    return [
        tuple(
            word if file == default else f"{file}:{word}"
            for file, words in each.items()
            for word in words
        )
        for each in expanded
    ]
