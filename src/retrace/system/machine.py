"""The user and the processor, as they are recorded in runs."""

import os
import platform
import pwd
import re
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def user() -> str:
    """Return the user's name, or their number if they have no name, as in a container.

    It is not taken from environment variables, which anyone may set.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def processor() -> str:
    """Return the processor's model.

    On a different model, floating-point sums are computed in a different order, so results differ
    in the last digits.
    """
    info = CPU_INFO.read_text(encoding="utf-8") if CPU_INFO.exists() else ""
    match = re.search(r"model name\s*: (.+)", info)
    return match[1] if match else platform.processor() or platform.machine()
