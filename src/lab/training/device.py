"""Device, precision and deterministic kernels: what makes results reproducible bit for bit.

Equal seeds give bit-identical results on the same kind of machine with the same number of threads.
A CPU and a GPU, or one and two threads, compute floating-point sums in a different order, so their
results differ in the last digits.
"""

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import deterministic

from lab.params import Hardware, Precision
from retrace.errors import ParamsError
from retrace.system import machine

M_TRIM_THRESHOLD = -1  # of mallopt(3)
M_MMAP_THRESHOLD = -3
KEPT_BYTES = 1 << 30
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU time, and of time
# Environment variables with which the same code gives other floating-point results.
DECIDE_BITS = (
    *("ATEN_CPU_CAPABILITY", "GLIBC_TUNABLES", "NPY_DISABLE_CPU_FEATURES", "OPENBLAS_CORETYPE"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "MKL_NUM_STRIPES"),
    *("ONEDNN_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "ONEDNN_DEFAULT_FPMATH_MODE"),
    *("DNNL_MAX_CPU_ISA", "DNNL_CPU_ISA_HINTS", "DNNL_DEFAULT_FPMATH_MODE"),
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUBLASLT_WORKSPACE_SIZE"),
    *("TORCH_CUDNN_V8_API_DISABLED", "TORCH_BLAS_PREFER_CUBLASLT", "DISABLE_ADDMM_CUDA_LT"),
)
# `threads` overrides these.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
FAST_FLOAT16 = (7, 0)  # compute capability from which a GPU is faster in float16: V100, T4, RTX 20


@dataclass(frozen=True)
class Compute:
    """The device, and the data type of convolutions and matrix products in training."""

    device: torch.device
    precision: torch.dtype
    threads: int
    variables: tuple[str, ...] = ()  # those of DECIDE_BITS that are set, as NAME=value

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which training runs its forward pass."""
        if self.precision is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def prepare(self, model: nn.Module) -> None:
        """Train depthwise convolutions in float32 where others are in 16 bits, on a CPU.

        oneDNN's gradient of a depthwise convolution takes about 3 times as long in bfloat16; the
        convolution itself is faster.
        """
        if self.device.type != "cpu" or self.precision is torch.float32:
            return
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1:
                wrapped = partial(_in_float32, layer.forward)  # a deep copy has its own layer
                layer.forward = wrapped  # pyright: ignore[reportAttributeAccessIssue]

    def scaler(self) -> torch.amp.GradScaler:
        """Return what scales the loss in float16, so that small gradients do not become 0.

        Micikevicius et al. 2018 (arXiv:1710.03740). A step whose gradients overflow is skipped, and
        the scale halved. In other precisions nothing is scaled.
        """
        return torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        name = torch.cuda.get_device_name() if self.is_gpu else f"cpu, {threads}"
        if self.device.type == "mps":
            name = f"mps, {machine.processor()}"
        return ", ".join((name, str(self.precision).removeprefix("torch."), *self.variables))


def _in_float32(forward: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(inputs)
    with torch.autocast("cpu", enabled=False):
        return forward(inputs.float()).to(inputs.dtype)


def configure(hardware: Hardware, precision: Precision) -> Compute:
    """Make PyTorch deterministic in this process, and choose the device and the precision.

    Raises ParamsError if the device is not available, or fewer than `threads` threads.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    # torch.use_deterministic_algorithms does the same, but imports the compiler (two seconds).
    torch.set_deterministic_debug_mode("error")
    # A debugging aid that causes most of the mode's cost.
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # TF32 has fewer digits than float32
    torch.set_flush_denormal(True)
    torch.set_num_threads(hardware.threads)
    _keep_freed_memory()

    device = _chosen(hardware.device)
    if device.type == "cpu":
        _use_threads(hardware.threads)
    elif device.type == "mps":  # some of its kernels may exist in one version only
        torch.set_deterministic_debug_mode("warn")
    name = _best_precision(device) if precision == "auto" else precision
    variables = tuple(f"{name}={os.environ[name]}" for name in DECIDE_BITS if name in os.environ)
    return Compute(device, PRECISIONS[name], hardware.threads, variables)


def _chosen(name: str) -> torch.device:
    """Return the device, with `auto` the best one here. Raises ParamsError if it is missing."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(each for each in available if available[each]))
    if not available[name]:
        raise ParamsError(
            f"params.yaml: device is {name!r}, but torch sees no such GPU here; use auto or cpu"
        )
    return torch.device(name)


@contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Raise ParamsError if the memory of the GPU or of the machine runs out."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        size = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
        raise ParamsError(
            f"params.yaml: batch_size is {batch_size}, "
            f"and allocating {size[1] if size else 'memory'} failed (out of memory); "
            "lower batch_size, or choose a smaller model"
        ) from None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether memory of the device has run out; on MPS and a CPU, by torch's message."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ("can't allocate memory", "MPS backend out of"))


def _use_threads(threads: int) -> None:
    """Let each parallel region have all threads; warn of variables that say otherwise.

    oneDNN's convolutions wait without end for a thread that OpenMP does not start. Raises
    ParamsError if OpenMP's limit, which a process cannot change, is lower.
    """
    openmp = ctypes.CDLL(None)
    limit = openmp.omp_get_thread_limit() if hasattr(openmp, "omp_get_thread_limit") else threads
    if limit < threads:
        raise ParamsError(
            f"params.yaml: threads is {threads}, but OMP_THREAD_LIMIT is {limit}, and training "
            f"would wait without end; type `unset OMP_THREAD_LIMIT`, or use -S threads={limit}"
        )
    contrary = [
        f"{name}={os.environ[name]}" for name in THREADS if _count(name) not in (0, threads)
    ]
    if hasattr(openmp, "omp_set_dynamic") and threads > 1:
        if openmp.omp_get_dynamic():
            openmp.omp_set_dynamic(0)
            contrary.append(f"OMP_DYNAMIC={os.environ.get('OMP_DYNAMIC')}")
        if openmp.omp_get_max_active_levels() < 1:
            openmp.omp_set_max_active_levels(1)
            contrary.append("OMP_MAX_ACTIVE_LEVELS=0")
    if contrary:
        remedy = f"threads is {threads}; change it with -S threads=N"
        print(f"warning: {', '.join(contrary)} has no effect: {remedy}", file=sys.stderr)
    if (cpus := _available_cpus()) < threads:
        state = f"threads is {threads}, more than the CPUs for this process ({cpus:g})"
        remedy = f"for faster training, use -S threads={max(1, int(cpus))}"
        print(f"warning: {state}; {remedy}", file=sys.stderr)


def _count(name: str) -> int:
    """Return the number of threads that a variable asks for, 0 if none."""
    first = os.environ.get(name, "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def _available_cpus() -> float:
    """Return how many CPUs this process may use: its affinity, within a container's quota."""
    cpus: float = os.cpu_count() or 1
    if sys.platform == "linux":
        cpus = len(os.sched_getaffinity(0))
    quota, _, period = (
        QUOTA.read_text("ascii").partition(" ") if QUOTA.exists() else ("max", "", "")
    )
    return min(cpus, int(quota) / int(period)) if quota.isdecimal() else cpus


def _keep_freed_memory() -> None:
    """Keep large freed blocks: Linux would zero them again for every batch."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _best_precision(device: torch.device) -> Precision:
    """Return bfloat16 if it is native: emulation is 2.5 times slower than float32.

    A GPU without it gets float16 if that is fast.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bfloat16"
        is_fast = torch.cuda.get_device_capability(device) >= FAST_FLOAT16
        return "float16" if is_fast else "float32"
    if device.type == "mps":  # nothing is known of its results in 16 bits
        return "float32"
    capabilities = torch.cpu.get_capabilities()
    is_native = capabilities.get("avx512_bf16", False) or capabilities.get("amx_tile", False)
    return "bfloat16" if is_native else "float32"
