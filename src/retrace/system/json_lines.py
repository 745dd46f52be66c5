"""Append to a file of JSON lines, and read it; a kill or a full disk may cut a line short."""

import errno
import json
import os
from pathlib import Path
from typing import Any


def append(file: int, value: dict[str, Any], *, is_torn: bool = False) -> None:
    """Write one line at once; if the line before it `is_torn`, end that one first.

    Raises OSError if the disk is full.
    """
    data = ("\n" * is_torn + json.dumps(value) + "\n").encode()
    if os.write(file, data) != len(data):
        raise OSError(errno.ENOSPC, "No space left on device")


def read_from(path: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Return the objects in the lines from the byte `position` on, and the position after them.

    A line that is not complete yet is left for the next call; one that was cut short is left out.
    """
    with path.open("rb") as file:
        file.seek(position)
        data = file.read()
    complete = data[: data.rfind(b"\n") + 1]
    values = [value for line in complete.splitlines() if (value := _parsed(line))]
    return values, position + len(complete)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
