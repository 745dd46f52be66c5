"""The machine's own limit: its fastest matrix product, and the operations of a training step."""

import json
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from contenders import job as jobs
from contenders.job import Job

SIDES = (512, 1024, 2048)
SECONDS = 1.0  # for each side
SAMPLES = 4  # of the step that is counted


def gflops(dtype: torch.dtype) -> float:
    """Return the billions of operations a second of the fastest square matrix product."""
    best = 0.0
    for side in SIDES:
        left, right = (torch.randn(side, side).to(dtype) for _ in range(2))
        until = time.perf_counter() + SECONDS
        while (began := time.perf_counter()) < until:
            left @ right
            best = max(best, 2 * side**3 / (time.perf_counter() - began) / 1e9)
    return best


def operations(job: Job) -> float:
    """Return the operations of a training step for each image, with its backward pass."""
    depth, side = {"cnn": (1, 28), "cifar_v3": (3, 32)}.get(job.network, (3, 224))
    model = job.model().train()
    images = torch.randn(SAMPLES, depth, side, side)
    with FlopCounterMode(display=False) as counter:
        nn.functional.cross_entropy(
            model(images), torch.zeros(SAMPLES, dtype=torch.int64)
        ).backward()
    return counter.get_total_flops() / SAMPLES


def main() -> None:
    job = jobs.from_command_line()
    limits = {"bfloat16": gflops(torch.bfloat16), "float32": gflops(torch.float32)}
    precision = str(jobs.best_dtype()).removeprefix("torch.")
    print(json.dumps(limits | {"precision": precision, "operations": operations(job)}))


if __name__ == "__main__":
    main()
