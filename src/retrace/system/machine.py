"""The user and the processor, as runs record them."""

import os
import platform
import pwd
import re
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def user() -> str:
    """The user's name; their number if they have no name, as in a container."""
    try:
        return pwd.getpwuid(
            os.getuid()
        ).pw_name  # not from environment variables, which anyone may set
    except KeyError:
        return str(os.getuid())


def processor() -> str:
    """The processor's model name. Other processors sum in another order, so last digits differ."""
    info = CPU_INFO.read_text(encoding="utf-8") if CPU_INFO.exists() else ""
    match = re.search(r"model name\s*: (.+)", info)
    return match[1] if match else platform.processor() or platform.machine()
