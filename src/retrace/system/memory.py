"""Free memory of the machine, within the limits of the container that this process is in."""

from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
LIMIT_AND_USE = {  # by the controller's name, in cgroup versions 2 and 1
    "": ("memory.max", "memory.current"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}


def free() -> int:
    """Return the bytes that can be allocated. psutil ignores the limit of a cgroup."""
    n_bytes = psutil.virtual_memory().available
    for folder, limit, use in _cgroups():
        text = (folder / limit).read_text(encoding="ascii").strip()
        if text.isdigit():  # else "max"
            used = int((folder / use).read_text(encoding="ascii")) - _file_cache(folder)
            n_bytes = min(n_bytes, int(text) - used)
    return max(n_bytes, 0)


def _cgroups() -> Iterator[tuple[Path, str, str]]:
    """Yield this process's group and those above it: folder, file of the limit, file of the use."""
    lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines() if OWN_GROUPS.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        group = Path(path.lstrip("/"))
        for controller, (limit, use) in LIMIT_AND_USE.items():
            if controller in controllers.split(","):
                for each in (group, *group.parents):
                    folder = CGROUPS / controller / each
                    if (folder / limit).exists():
                        yield folder, limit, use


def _file_cache(group: Path) -> int:
    """Return the bytes of cached files, which the kernel frees when a group needs memory."""
    stat = group / "memory.stat"
    lines = stat.read_text(encoding="ascii").splitlines() if stat.exists() else []
    values = dict(line.split() for line in lines)
    return int(values.get("inactive_file", 0)) + int(values.get("active_file", 0))
