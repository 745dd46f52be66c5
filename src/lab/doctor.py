"""Python, its packages, whose code the command runs, and what training can use."""

import os
import platform
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import retrace
from retrace.doctor.findings import REBUILD, Check, Finding, ok, problem, some, warning

PROJECT = Path("pyproject.toml")
PINS = Path("requirements.txt")
CPU_FLAGS = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_tile"}  # either multiplies it natively
PIN = re.compile(r"^([\w.-]+)==([^ ;\\]+) *(?:; *([^\\\n]*[^\\\s]))?", re.MULTILINE)


def python() -> Iterator[Finding]:
    """pyproject.toml allows this Python."""
    from packaging.specifiers import SpecifierSet

    allowed = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["requires-python"]
    version = platform.python_version()
    if version in SpecifierSet(allowed, prereleases=True):
        yield ok(f"Python {version}")
    else:
        yield problem(
            f"Python {version}; {PROJECT} allows {allowed}",
            "rm -rf .venv && make PYTHON=python3.12 env",
        )


def packages() -> Iterator[Finding]:
    """The installed packages are those of requirements.txt."""
    from packaging.markers import Marker
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    pinned = {
        name: version
        for name, version, marker in PIN.findall(PINS.read_text(encoding="utf-8"))
        if not marker or Marker(marker).evaluate()
    }
    here = {
        canonicalize_name(each.name): each.version for each in metadata.distributions() if each.name
    }
    wrong = [
        f"{name} is {here.get(name, 'missing')}, not {version}"
        for name, version in pinned.items()
        if name not in here or Version(here[name]).public != Version(version).public
    ]
    if wrong:
        yield problem(
            f"{len(wrong)} of {len(pinned)} packages are not as {PINS} says: {some(wrong)}", REBUILD
        )
    else:
        yield ok(f"{len(pinned)} packages, as {PINS} says")


def code() -> Iterator[Finding]:
    """The command runs the code of the repository that it is called in."""
    own = Path(retrace.__file__).resolve().parent
    if own == Path("src/retrace").resolve():
        yield ok("`retrace` runs the code in src/")
    else:
        yield problem(
            f"`retrace` runs the code in {own}, not this repository's",
            "make env && . .venv/bin/activate",
        )


def gpu() -> Iterator[Finding]:
    """Training can use the GPU, if there is one."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        classes = vars(pynvml)  # pynvml defines its error classes when it is imported
        absent = classes["NVMLError_LibraryNotFound"], classes["NVMLError_DriverNotLoaded"]
        if isinstance(error, absent):
            yield ok("no GPU: training runs on the CPU")
        else:
            yield warning(
                f"the GPU's driver fails: {error}; after updating it, restart the machine"
            )
        return
    try:
        names = [_gpu(pynvml, number) for number in range(pynvml.nvmlDeviceGetCount())]
        known, driver = (
            pynvml.nvmlSystemGetCudaDriverVersion_v2(),
            pynvml.nvmlSystemGetDriverVersion(),
        )
    finally:
        pynvml.nvmlShutdown()
    built = _cuda_of_torch()
    if not names:
        yield ok("a GPU driver but no GPU: training runs on the CPU")
    elif built is None:
        yield problem(f"{', '.join(names)}, which torch cannot use: it is a CPU build", REBUILD)
    elif known // 1000 < int(built.split(".")[0]):
        newest = f"{known // 1000}.{known % 1000 // 10}"
        reason = f"driver {driver} supports CUDA {newest}, torch was built for {built}"
        yield problem(
            f"{', '.join(names)}, which torch cannot use: {reason}; update the driver, or use -S device=cpu"
        )
    elif os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        yield warning(
            f"{', '.join(names)}, hidden by an empty CUDA_VISIBLE_DEVICES",
            "unset CUDA_VISIBLE_DEVICES",
        )
    else:
        yield ok(f"{', '.join(names)}; driver {driver}, torch for CUDA {built}")


def _gpu(pynvml: Any, number: int) -> str:
    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return f"{pynvml.nvmlDeviceGetName(handle)}, {memory.free / 1e9:.0f} of {memory.total / 1e9:.0f} GB free"


def _cuda_of_torch() -> str | None:
    """Return the CUDA version of torch's build, read from its file: its import takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torch is not installed")
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    built = re.search(r"^cuda\b.*= *'([\d.]+)'", text, re.MULTILINE)
    return built[1] if built else None


def processor() -> Iterator[Finding]:
    """The number of CPUs that this process may use, and whether they multiply bfloat16."""
    flags = (
        set(re.findall(r"\w+", CPU_FLAGS.read_text(encoding="utf-8")))
        if CPU_FLAGS.exists()
        else set[str]()
    )
    native = (
        "bfloat16 is native" if flags & BFLOAT16 else "no native bfloat16, so training uses float32"
    )
    yield ok(f"{len(os.sched_getaffinity(0))} CPUs, {native}")


CHECKS: dict[str, Check] = {
    "python": python,
    "packages": packages,
    "code": code,
    "gpu": gpu,
    "processor": processor,
}


def check_params(values: Mapping[str, Any], changed: Sequence[str]) -> None:
    """Check params.yaml's values, and those settings of a choice that changed. Raises ParamsError."""
    from lab import params
    from lab.models.networks import MODELS
    from lab.training.augmentations import AUGMENTATIONS
    from lab.training.losses import LOSSES
    from lab.training.optimizers import OPTIMIZERS
    from lab.training.schedules import SCHEDULES

    params.checked(dict(values))
    functions = {
        "model": MODELS,
        "loss": LOSSES,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "augmentation": AUGMENTATIONS,
    }
    for choice, table in functions.items():
        name = params.TABLES[choice]
        if choice in changed or any(key.startswith(f"{name}.") for key in changed):
            settings = values[name][values[choice]]
            params.bind(table, params.Choice(name=values[choice], settings=settings), name)
