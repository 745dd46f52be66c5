"""Measure whether the cost per sample grows with the amount of data.

Measure synthetic data sets from a thousand samples to a million, one that is larger than memory,
and a folder of ten thousand images, in temporary clones under .retrace/. Nothing else should run.

For the data set that is larger than memory, memory is limited. This needs the permission to create
a control group, which root has.
"""

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
import table
from bench import demand_quiet
from clones import Clone
from overhead import PEAK, edited
from PIL import Image
from table import Figure

from lab import paths
from lab.data.datasets import mnist
from retrace import errors

GROUPS = Path("/sys/fs/cgroup")
SIZES = (1_000, 10_000, 100_000, 1_000_000)  # samples
LARGE = 4_000_000  # of 784 bytes: three gibibytes
LIMIT = 3 << 29  # bytes of memory for them: half of their size
BLOCK = 100_000
STEPS = 300
IMAGES = 10_000  # photographs
EDGE = 256  # pixels per side
MANY = {
    "epochs: 5": "epochs: 100000",
    "validation_fraction: 0.1": "validation_fraction: 0.01",
}  # more than what is timed


def synthetic(folder: Path, n: int) -> None:
    """Write MNIST's files to `folder`, with `n` training and a thousand test images of noise."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for count, images, labels in ((n, *mnist.FILES[:2]), (1000, *mnist.FILES[2:])):
        with (folder / images.name).open("wb") as file:
            file.write(
                b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (count, 28, 28))
            )
            for first in range(0, count, BLOCK):
                file.write(random.bytes(784 * min(BLOCK, count - first)))
        label = (np.arange(count) % 10).astype(np.uint8)
        (folder / labels.name).write_bytes(
            b"\0\0\x08\x01" + count.to_bytes(4, "big") + label.tobytes()
        )


def prepared(folder: Path, n: int, before: str = "") -> tuple[Clone, float, float]:
    """Preprocess `n` samples; return the clone, the seconds taken and the peak memory in GiB.

    `before` is a shell command that is run first. The peak includes mapped files, whose memory the
    kernel frees when memory is short.
    """
    clone = edited(Clone(folder / f"samples-{n}", "mnist"), MANY)
    synthetic(clone.path / paths.RAW, n)
    began = time.perf_counter()
    if before:
        for file in (clone.path / paths.RAW).iterdir():
            forget(file)  # or the kernel would count it for another process
    output = clone.run("bash", "-c", f'{before} exec python -c "$0" stages/preprocess.py', PEAK)
    peak = int(output.splitlines()[-1])
    taken = time.perf_counter() - began
    for file in (clone.path / paths.RAW).iterdir():
        file.unlink()
    return clone, taken, peak / (1 << 20)


def speed(clone: Clone, before: str = "") -> float:
    """Return the training speed in samples per second. `before` is run in the shell first."""
    demand_quiet()
    if before:
        for file in (clone.path / paths.RAW).iterdir():
            forget(file)  # or the kernel would count it for another process
    output = clone.run(
        "bash", "-c", f"{before} exec python benchmarks/side.py ours mnist steps {STEPS} 0"
    )
    measurement = json.loads(output.splitlines()[-1])
    return measurement["samples"] / measurement["seconds"]


def flat(folder: Path, n: int) -> Iterator[Figure]:
    """Measure preprocess and the training time per sample, from the smallest set to the largest."""
    clones = {}
    for size in SIZES:
        clones[size], taken, peak = prepared(folder, size)
        yield Figure(f"preprocess, {size:,} samples", 1e6 * taken / size, "µs per sample", 1)
        yield Figure(f"its peak memory, mapped files included, {size:,} samples", peak, "GiB", 1)
    speeds: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(n):
        for size, clone in clones.items():
            speeds[size].append(speed(clone))
    for size, each in speeds.items():
        yield Figure(f"training, {size:,} samples", 1e6 / median(each), "µs per sample", n)
    # Not relative to the smallest sets: they are validated every eight steps, which would hide the
    # cost of the largest set.
    slower = median(speeds[SIZES[-2]]) / median(speeds[SIZES[-1]])
    yield Figure(
        f"a sample of {SIZES[-1]:,}, relative to one of {SIZES[-2]:,}",
        slower,
        "times",
        n,
        target=1.1,
    )


def larger_than_memory(folder: Path, n: int) -> Iterator[Figure]:
    """Measure the same data in memory, and read from disk with memory for half of it."""
    with limited() as enter:
        if enter is None:
            print(
                "a data set larger than memory: not measured, "
                "because a control group could not be created",
                flush=True,
            )
            return
        clone, taken, peak = prepared(folder, LARGE, enter)
        size = (clone.path / paths.TRAIN).stat().st_size / (1 << 30)
        within = f"with {LIMIT / (1 << 30):.1f} GiB of memory"
        yield Figure(
            f"preprocess of {size:.1f} GiB {within}", 1e6 * taken / LARGE, "µs per sample", 1
        )
        yield Figure(
            "its peak memory, mapped files included", peak, "GiB", 1, target=LIMIT / (1 << 30)
        )
        speeds: dict[str, list[float]] = {"": [], enter: []}
        for _ in range(n):
            for before, each in speeds.items():
                if before:
                    forget(clone.path / paths.TRAIN)
                each.append(speed(clone, before))
        whole, half = (median(each) for each in speeds.values())
        yield Figure("training with memory for all data", whole, "samples/s", n)
        yield Figure(f"training {within}", half, "samples/s", n)
        yield Figure("ratio of the first to the second", whole / half, "times", n, target=2)


def forget(file: Path) -> None:
    """Drop the file from the kernel's page cache, so that it is read from disk again."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def limited() -> Iterator[str | None]:
    """Yield a shell command that limits its memory and its children's; None if not permitted."""
    first = (GROUPS / "memory").is_dir()
    group = (GROUPS / "memory" if first else GROUPS) / f"retrace-benchmark-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if first else "memory.max")).write_text(f"{LIMIT}\n")
    except OSError:
        with suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield f"echo $$ > {group}/cgroup.procs;"
    finally:
        group.rmdir()


def photograph(seed: int) -> bytes:
    """Return a JPEG about as large as a photograph of these dimensions: smooth, with some noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize(
        (EDGE, EDGE)
    )
    noisy = np.asarray(coarse, np.int16) + random.integers(-12, 13, (EDGE, EDGE, 3))
    content = BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=85)
    return content.getvalue()


def decode(files: list[Path]) -> None:
    """Do only what is unavoidable: read, decode and shrink each image."""
    for file in files:
        with Image.open(file) as image:
            np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR))


def images(folder: Path, n: int) -> Iterator[Figure]:
    """Compare packing a folder of images with only decoding them, on all cores."""
    clone = Clone(folder / "images", "image_folder")
    files = []
    for number in range(IMAGES):
        files.append(clone.path / paths.IMAGES / f"class {number % 10}" / f"{number}.jpg")
        files[-1].parent.mkdir(exist_ok=True)
        files[-1].write_bytes(photograph(number))
    clone.run("python", "stages/download.py")
    cores = os.cpu_count() or 1
    packed = []
    alone = []
    for _ in range(n):
        demand_quiet()
        packed.append(clone.seconds("python", "benchmarks/untracked.py", "preprocess"))
        with ProcessPoolExecutor(cores) as pool:
            began = time.perf_counter()
            list(pool.map(decode, [files[core::cores] for core in range(cores)]))
            alone.append(time.perf_counter() - began)
    yield Figure(
        f"{IMAGES:,} images of {EDGE} x {EDGE} pixels, packed",
        IMAGES / median(packed),
        "images/s",
        n,
    )
    yield Figure(f"only decoded, by {cores} processes", IMAGES / median(alone), "images/s", n)
    yield Figure(
        "ratio of the second to the first", median(packed) / median(alone), "times", n, target=1.5
    )


FIGURES = {"flat": (flat, 5), "larger": (larger_than_memory, 3), "images": (images, 3)}


if __name__ == "__main__":
    errors.run(lambda: table.measure(__doc__ or "", FIGURES))
