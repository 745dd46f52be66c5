"""Who runs this, and on what kind of machine."""

import os
import platform
import pwd
import re
from pathlib import Path

CPUS = Path("/proc/cpuinfo")


def user() -> str:
    """Who runs this; the number where the user has no name, as in a container."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name  # not from the environment, which may say anything
    except KeyError:
        return str(os.getuid())


def machine() -> str:
    """The kind of processor: another kind adds in another order, and its last digits differ."""
    found = re.search(r"model name\s*: (.+)", CPUS.read_text(encoding="utf-8")) if CPUS.exists() else None
    return found[1] if found else platform.processor() or platform.machine()
