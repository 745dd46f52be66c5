"""The lab's checks for `retrace doctor`: Python, packages, code, hardware, stages' parameters."""

import os
import platform
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import retrace
from retrace.doctor.findings import Check, Finding, ok, problem, some, warning

HERE = Path("src/lab/doctor/__init__.py")  # in a repository without it, nothing here is checked
REBUILD = "rm -f .venv/.complete && make env"  # the environment, from requirements.txt
PROJECT = Path("pyproject.toml")
PINS = Path("requirements.txt")
CPU_FLAGS = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_tile"}  # CPU flags; with either one, support is native
PIN = re.compile(r"^([\w.-]+)==([^ ;\\]+) *(?:; *([^\\\n]*[^\\\s]))?", re.MULTILINE)


def python() -> Iterator[Finding]:
    """Check that pyproject.toml allows this Python."""
    from packaging.specifiers import SpecifierSet

    allowed = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["requires-python"]
    version = platform.python_version()
    if version in SpecifierSet(allowed, prereleases=True):
        yield ok(f"Python {version}")
    else:
        state = f"Python {version}; {PROJECT} allows {allowed}"
        yield problem(state, "rm -rf .venv && make PYTHON=python3.12 env")


def packages() -> Iterator[Finding]:
    """Check that the installed packages are those of requirements.txt."""
    from packaging.markers import Marker
    from packaging.utils import canonicalize_name
    from packaging.version import Version

    pinned = {
        name: version
        for name, version, marker in PIN.findall(PINS.read_text(encoding="utf-8"))
        if not marker or Marker(marker).evaluate()
    }
    headers = [distribution.metadata for distribution in metadata.distributions()]  # parsed once
    here = {canonicalize_name(each["Name"]): each["Version"] for each in headers if each["Name"]}
    wrong = [
        f"{name} is {here.get(name, 'missing')}, not {version}"
        for name, version in pinned.items()
        if name not in here or Version(here[name]).public != Version(version).public
    ]
    if wrong:
        state = f"{len(wrong)} of {len(pinned)} packages differ from {PINS}: {some(wrong)}"
        yield problem(state, REBUILD)
    else:
        yield ok(f"{len(pinned)} packages, as in {PINS}")


def code() -> Iterator[Finding]:
    """Check that the command runs the code of the repository that it is called in."""
    if _is_own_code():
        yield ok("`retrace` runs the code in src/")
    else:
        own = Path(retrace.__file__).resolve().parent
        state = f"`retrace` runs the code in {own}, not this repository's"
        yield problem(state, "make env && . .venv/bin/activate")


def _is_own_code() -> bool:
    return Path(retrace.__file__).resolve().parent == Path("src/retrace").resolve()


def gpu() -> Iterator[Finding]:
    """Check that training can use the GPU, if there is one."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        classes = vars(pynvml)  # pynvml defines its error classes when it is imported
        absent = classes["NVMLError_LibraryNotFound"], classes["NVMLError_DriverNotLoaded"]
        if isinstance(error, absent):
            yield ok("no GPU: training runs on the CPU")
        else:
            remedy = "if it was just updated, restart the machine"
            yield warning(f"the GPU driver reports an error: {error}; {remedy}")
        return
    try:
        names = [_gpu(pynvml, number) for number in range(pynvml.nvmlDeviceGetCount())]
        known = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        driver = pynvml.nvmlSystemGetDriverVersion()
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
        remedy = "update the driver, or use -S device=cpu"
        yield problem(f"{', '.join(names)}, which torch cannot use: {reason}; {remedy}")
    elif os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        state = f"{', '.join(names)}, hidden by an empty CUDA_VISIBLE_DEVICES"
        yield warning(state, "unset CUDA_VISIBLE_DEVICES")
    else:
        yield ok(f"{', '.join(names)}; driver {driver}, torch for CUDA {built}")


def _gpu(pynvml: Any, number: int) -> str:
    handle = pynvml.nvmlDeviceGetHandleByIndex(number)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    free = f"{memory.free / 1e9:.0f} of {memory.total / 1e9:.0f} GB free"
    return f"{pynvml.nvmlDeviceGetName(handle)}, {free}"


def _cuda_of_torch() -> str | None:
    """Return the CUDA version of torch's build, read from its file: its import takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torch is not installed")
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    built = re.search(r"^cuda\b.*= *'([\d.]+)'", text, re.MULTILINE)
    return built[1] if built else None


def processor() -> Iterator[Finding]:
    """Count the CPUs that this process may use, and look for native bfloat16 support."""
    if sys.platform == "darwin":
        state = "training runs on its GPU (mps), in float32; this has not been tried on a Mac"
        yield ok(f"{os.cpu_count()} CPUs of a Mac; {state}")
        return
    info = CPU_FLAGS.read_text(encoding="utf-8") if CPU_FLAGS.exists() else ""
    is_native = BFLOAT16 & set(re.findall(r"\w+", info))
    bfloat16 = "bfloat16 is native" if is_native else "no native bfloat16, so training uses float32"
    yield ok(f"{len(os.sched_getaffinity(0))} CPUs, {bfloat16}")


def stage_code() -> Iterator[Finding]:
    """Check that the code in each stage's `deps` is the code that its script imports."""
    from lab.doctor import code_deps

    if not _is_own_code():
        return
    stale = code_deps.check()
    for entry in stale:
        effect = "DVC reruns the stage needlessly"
        if entry.is_missing:
            effect = "DVC does not rerun the stage when that code changes"
        yield problem(f"{entry}, so {effect}", "make deps")
    if not stale:
        yield ok("each stage declares what it imports")


def stage_params() -> Iterator[Finding]:
    """Check that the params of each stage in dvc.yaml are the keys that it reads."""
    from lab import params
    from lab.doctor import code_deps

    stages = code_deps.declared()
    if not stages.keys() >= params.STAGES.keys():
        return  # another repository's pipeline
    changes = []
    for name, stage in params.STAGES.items():
        declared = stages[name].get("params", [])
        needed = params.keys_of(stage)
        changes += [(name, "lacks", key) for key in needed if key not in declared]
        changes += [(name, "has", key) for key in declared if key not in needed]
    for name, verb, key in changes:
        if verb == "lacks":
            effect = f"so DVC does not rerun the stage when {key} changes"
        else:
            effect = "which the stage does not read, so DVC reruns it needlessly"
        state = f"{name}: `params` in dvc.yaml {verb} {key}, {effect}"
        yield problem(state, _params_repair(name, verb, key))
    if not changes:
        yield ok("each stage declares the params that it reads")


def _params_repair(stage: str, verb: str, key: str) -> str:
    """Return the command that adds a key to a stage's params in dvc.yaml, or removes it."""
    add = rf"s|^    params:|&\n      - {key}|"
    change = add if verb == "lacks" else rf"{{ \|^      - {key}$|d }}"
    return f"sed -i '/^  {stage}:/,/^  [a-z]/ {change}' dvc.yaml"


def _here(check: Check) -> Check:
    """Return the check, without findings in a repository that is not the lab's."""
    return lambda: check() if HERE.is_file() else iter(())


CHECKS: dict[str, Check] = {
    "python": _here(python),
    "packages": _here(packages),
    "code": _here(code),
    "gpu": _here(gpu),
    "processor": _here(processor),
    "stage params": _here(stage_params),
    "stage code": _here(stage_code),
}


def check_params(values: Mapping[str, Any], changed: Sequence[str]) -> None:
    """Check the values of params.yaml, and the settings of choices that `changed` names.

    Those of another pipeline are not checked. Raises ParamsError.
    """
    from lab import params
    from retrace.pipeline import loading

    if not loading.load(Path()).stages.keys() >= params.STAGES.keys():
        return
    params.checked(dict(values))
    for choice, table in params.TABLES.items():
        is_changed = choice in changed or any(key.startswith(f"{table}.") for key in changed)
        if is_changed and choice != "dataset":
            settings = values[table][values[choice]]
            chosen = params.Choice(name=values[choice], settings=settings)
            params.bind(_functions(choice), chosen, table)


def _functions(choice: str) -> Mapping[str, Callable[..., Any]]:
    """Return the functions of a choice by name. This imports torch, which takes seconds."""
    from lab.models.networks import MODELS
    from lab.training.augmentations import AUGMENTATIONS
    from lab.training.losses import LOSSES
    from lab.training.optimizers import OPTIMIZERS
    from lab.training.schedules import SCHEDULES

    functions: dict[str, Mapping[str, Callable[..., Any]]] = {
        "model": MODELS,
        "loss": LOSSES,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "augmentation": AUGMENTATIONS,
    }
    return functions[choice]
