"""The GPU and its driver against torch's build, the processor, memory, and room on the disks."""

import os
import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from retrace import dvc_internals, paths
from retrace.checks.findings import REBUILD, Check, Finding, ok, problem, warning

FLAGS = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_tile"}  # either multiplies it natively
LEAST_MEMORY = 1.5e9  # bytes free, that a training of MNIST is sure to have enough of
LEAST_DISK, LOW_DISK = 1e9, 5e9  # bytes
LEAST_FILES = 10_000
GC = "dvc gc --workspace --all-experiments"  # asks, and then removes what neither names; of other commits as well


def gpu() -> Iterator[Finding]:
    """Training can use the GPU, if there is one."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        made = vars(pynvml)  # where pynvml puts its classes of errors when it is imported
        absent = made["NVMLError_LibraryNotFound"], made["NVMLError_DriverNotLoaded"]
        if isinstance(error, absent):
            yield ok("no GPU: training runs on the processor")
        else:
            yield warning(f"the GPU's driver says: {error}; after an update of it, the machine has to start anew")
        return
    try:
        names = [_gpu(pynvml, number) for number in range(pynvml.nvmlDeviceGetCount())]
        known, driver = pynvml.nvmlSystemGetCudaDriverVersion_v2(), pynvml.nvmlSystemGetDriverVersion()
    finally:
        pynvml.nvmlShutdown()
    built = _cuda_of_torch()
    if not names:
        yield ok("a GPU's driver, and no GPU: training runs on the processor")
    elif built is None:
        yield problem(f"{', '.join(names)}, which torch cannot use: it is a build for processors", REBUILD)
    elif known // 1000 < int(built.split(".")[0]):
        said = f"driver {driver} knows CUDA {known // 1000}.{known % 1000 // 10}, and torch was built for {built}"
        yield problem(f"{', '.join(names)}, which torch cannot use: {said}; update the driver, or use -S device=cpu")
    elif os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        yield warning(f"{', '.join(names)}, hidden by an empty CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES")
    else:
        yield ok(f"{', '.join(names)}; driver {driver}, torch for CUDA {built}")


def _gpu(pynvml: Any, number: int) -> str:
    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return f"{pynvml.nvmlDeviceGetName(handle)}, {memory.free / 1e9:.0f} of {memory.total / 1e9:.0f} GB free"


def _cuda_of_torch() -> str | None:
    """The CUDA that torch was built for, read from its file: its import takes seconds."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("torch is not installed")
    said = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    built = re.search(r"^cuda\b.*= *'([\d.]+)'", said, re.MULTILINE)
    return built[1] if built else None


def processor() -> Iterator[Finding]:
    """How many processors this may use, and whether they multiply bfloat16."""
    flags = set(re.findall(r"\w+", FLAGS.read_text(encoding="utf-8"))) if FLAGS.exists() else set[str]()
    native = "bfloat16 is native" if flags & BFLOAT16 else "no native bfloat16, so training takes float32"
    yield ok(f"{len(os.sched_getaffinity(0))} processors, {native}")


def memory() -> Iterator[Finding]:
    """There is memory to train in, also where a container limits it."""
    from retrace import memory

    free = memory.free()
    said = f"{free / 1e9:.1f} GB of memory are free"
    yield ok(said) if free >= LEAST_MEMORY else warning(f"{said}; what else runs here may have to end first")


def disks() -> Iterator[Finding]:
    """There is room where results, DVC's cache and downloads are written."""
    seen: dict[int, str] = {}
    for name, folder in {
        "this repository": Path(),
        "DVC's cache": dvc_internals.cache(),
        "downloads": paths.cache("x").parent,
    }.items():
        there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
        if there.stat().st_dev in seen:
            continue
        seen[there.stat().st_dev] = name
        free, files = shutil.disk_usage(there).free, os.statvfs(there)
        said = f"{free / 1e9:,.1f} GB are free for {name}, in {there}"
        if files.f_files and files.f_favail < LEAST_FILES:
            yield problem(f"{files.f_favail:,} more files fit for {name}, in {there}", GC)
        if free < LEAST_DISK:
            yield problem(said, GC)
        elif free < LOW_DISK:
            yield warning(said, GC)
        else:
            yield ok(said)


CHECKS: dict[str, Check] = {"gpu": gpu, "processor": processor, "memory": memory, "disk": disks}
