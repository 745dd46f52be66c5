"""The user and the processor, as they are recorded in runs."""

import os
import platform
import pwd
import re
import subprocess
import sys
from pathlib import Path

from retrace.errors import RetraceError

NAMING = ("LOGNAME", "USER", "LNAME", "USERNAME")  # where Python looks first, see getpass.getuser
HOME_REPAIR = "type `export HOME=/tmp`"
CPU_INFO = Path("/proc/cpuinfo")


def user() -> str:
    """Return the user's name, or their number if they have no name, as in a container.

    It is not taken from environment variables, which anyone may set.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def has_name() -> bool:
    """Return whether the system knows the user's name; it may not in a container."""
    return user() != str(os.getuid())


def name_user() -> None:
    """Give a user without a name the number as name, in USER: Python and DVC fail without one."""
    if not has_name() and not any(map(os.environ.get, NAMING)):
        os.environ["USER"] = user()


def check_home() -> None:
    """Raise RetraceError if the user has no home folder, without which DVC fails."""
    try:
        Path.home()
    except RuntimeError:
        reason = f"HOME is not set, and user {user()} has no entry in /etc/passwd"
        raise RetraceError(f"{reason}; {HOME_REPAIR}, or another folder of yours") from None


def processor() -> str:
    """Return the processor's model.

    On a different model, floating-point sums are computed in a different order, so results differ
    in the last digits.
    """
    if sys.platform == "darwin":
        command = ("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    info = CPU_INFO.read_text(encoding="utf-8") if CPU_INFO.exists() else ""
    match = re.search(r"model name\s*: (.+)", info)
    return match[1] if match else platform.processor() or platform.machine()
