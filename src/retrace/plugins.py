"""What other packages add to retrace, by entry points in their pyproject.toml.

    retrace.commands    commands of `retrace`: modules like those in retrace.cli
    retrace.doctor      topics of `retrace doctor`: modules like those in retrace.doctor
    retrace.params      functions that check the values of params.yaml
    retrace.packagers   functions that package a model for MLflow

Listing a group takes 20 ms: importlib reads the entry points of every installed package.
"""

import sys
from collections.abc import Iterable
from importlib import metadata
from typing import Any


def entries(group: str) -> dict[str, metadata.EntryPoint]:
    """Return the entry points of a group, sorted by name. Nothing is imported yet."""
    return {entry.name: entry for entry in sorted(metadata.entry_points(group=f"retrace.{group}"))}


def load(group: str, required: Iterable[str] = ()) -> dict[str, Any]:
    """Import the entry points of a group.

    One that cannot be imported, or lacks a required attribute, is left out, with one line on
    stderr.
    """
    loaded = {}
    for name, entry in entries(group).items():
        try:
            plugin = entry.load()
            for attribute in required:
                getattr(plugin, attribute)
            loaded[name] = plugin
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(
                f"retrace: cannot load the plug-in {name} ({entry.value}): {reason}",
                file=sys.stderr,
            )
    return loaded
