"""The same bits every time: seeds, deterministic kernels, and which device and precision do the work.

Equal seeds give equal bits on the same kind of machine with the same number of threads; a CPU and a GPU, or one and
two threads, add in different orders and differ in the last digit.
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

from retrace.errors import ParamsError
from retrace.params import Hardware, Precision


@dataclass(frozen=True)
class Compute:
    """Where tensors live and the type that convolutions and products use in training."""

    device: torch.device
    precision: torch.dtype
    threads: int

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which training runs its forward pass."""
        return torch.autocast(self.device.type, self.precision) if self.precision is torch.bfloat16 else nullcontext()

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        name = torch.cuda.get_device_name() if self.is_gpu else f"cpu, {threads}"
        return f"{name}, {str(self.precision).removeprefix('torch.')}"


def settle(hardware: Hardware, precision: Precision) -> Compute:
    """From here on torch is deterministic in this process. Raises ParamsError where the device is not there."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch._C._set_deterministic_algorithms(True, warn_only=False)  # torch's own function imports its compiler too
    # A debugging aid, and most of what the mode costs.
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # or float32 would not be what it says
    torch.set_flush_denormal(True)
    torch.set_num_threads(hardware.threads)
    _keep_freed_memory()

    has_gpu = torch.cuda.is_available()
    if hardware.device == "cuda" and not has_gpu:
        raise ParamsError("params.yaml: device is 'cuda', but torch sees no GPU here; use auto or cpu")
    device = torch.device("cuda" if has_gpu and hardware.device != "cpu" else "cpu")
    fast = _has_bfloat16(device) if precision == "auto" else precision == "bfloat16"
    return Compute(device, torch.bfloat16 if fast else torch.float32, hardware.threads)


@contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Raises ParamsError where memory runs out within, of the GPU or of the machine."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
        raise ParamsError(
            f"params.yaml: batch_size is {batch_size}, and memory has no room for {asked[1] if asked else 'it'}; "
            "lower batch_size, or take a smaller model"
        ) from None


def _keep_freed_memory() -> None:
    """Large blocks are kept: returned to the kernel, they are cleared anew for every batch."""
    threshold, trim, limit = -3, -1, 1 << 30  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, bytes
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(threshold, limit)
        libc.mallopt(trim, limit)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16: emulated, as on AVX-512 without BF16, it is 2.5 times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
