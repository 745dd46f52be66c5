"""Device, precision and deterministic kernels: what makes results reproducible bit for bit.

Equal seeds give bit-identical results on the same kind of machine with the same number of threads.
A CPU and a GPU, or one and two threads, compute floating-point sums in a different order, so their
results differ in the last digits.
"""

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch.utils import deterministic

from lab.params import Hardware, Precision
from retrace.errors import ParamsError

M_TRIM_THRESHOLD = -1  # of mallopt(3)
M_MMAP_THRESHOLD = -3
KEPT_BYTES = 1 << 30


@dataclass(frozen=True)
class Compute:
    """The device, and the data type of convolutions and matrix products in training."""

    device: torch.device
    precision: torch.dtype
    threads: int

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which training runs its forward pass."""
        if self.precision is torch.bfloat16:
            return torch.autocast(self.device.type, self.precision)
        return nullcontext()

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        name = torch.cuda.get_device_name() if self.is_gpu else f"cpu, {threads}"
        return f"{name}, {str(self.precision).removeprefix('torch.')}"


def configure(hardware: Hardware, precision: Precision) -> Compute:
    """Make PyTorch deterministic in this process, and choose the device and the precision.

    Raises ParamsError if the device is not available.
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

    has_gpu = torch.cuda.is_available()
    if hardware.device == "cuda" and not has_gpu:
        raise ParamsError(
            "params.yaml: device is 'cuda', but torch sees no GPU here; use auto or cpu"
        )
    device = torch.device("cuda" if has_gpu and hardware.device != "cpu" else "cpu")
    use_bfloat16 = precision == "bfloat16" or (precision == "auto" and _has_bfloat16(device))
    return Compute(device, torch.bfloat16 if use_bfloat16 else torch.float32, hardware.threads)


@contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Raise ParamsError if the memory of the GPU or of the machine runs out."""
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in message:
            raise
        size = re.search(r"tried to allocate ([\d.]+ \w+)", message, re.IGNORECASE)
        raise ParamsError(
            f"params.yaml: batch_size is {batch_size}, "
            f"and allocating {size[1] if size else 'memory'} failed (out of memory); "
            "lower batch_size, or choose a smaller model"
        ) from None


def _keep_freed_memory() -> None:
    """Keep large freed blocks: Linux would zero them again for every batch."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _has_bfloat16(device: torch.device) -> bool:
    """Check for native bfloat16 support: emulation is 2.5 times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return capabilities.get("avx512_bf16", False) or capabilities.get("amx_tile", False)
