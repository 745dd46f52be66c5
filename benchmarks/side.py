"""Measure one side of a comparison: `python benchmarks/side.py ours cifar_v3 steps 200 0`.

Run it in a separate process, in a clone with a recipe's parameters and splits, so that both sides
use the same samples. Print JSON: the `seconds` that `samples` samples took, the number of samples
in an epoch (`of`), and the test `accuracy` if it was measured.
"""

import gc
import hashlib
import json
import os
import re
import runpy
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import untracked

from retrace.errors import RetraceError

WARM = 10  # steps that are not counted: memory is mapped, kernels are chosen
Measurement = dict[str, Any]


class EnoughError(Exception):
    """The requested number of steps has been counted."""


class Steps:
    """Counts the samples and the seconds of `n` steps, after some to warm up."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.done = 0
        self.samples = 0
        self.began = 0.0

    def step(self, samples: int) -> None:
        """Count a step. Raises EnoughError after the last one."""
        self.done += 1
        if self.done > WARM:
            self.samples += samples
        if self.done == WARM:
            self.began = time.perf_counter()
        if self.done == WARM + self.n:
            raise EnoughError

    def time(self, run: Callable[[], object]) -> Measurement:
        try:
            while True:
                before = self.done
                run()
                if self.done == before:
                    raise RetraceError(
                        f"this training has fewer than {self.n} steps; lower the number"
                    )
        except EnoughError:
            return {"samples": self.samples, "seconds": time.perf_counter() - self.began}


def taught(name: str, what: str, n: int, seed: int) -> Measurement:
    """Time the tutorial's own loop: `n` steps, `n` epochs with a test each, or `n` tests."""
    import torch

    from lab import paths
    from lab.data import storage

    torch.manual_seed(seed)
    torch.set_num_threads(os.cpu_count() or 1)
    watched = paths.TEST if what == "tests" else paths.VALIDATION  # after each epoch, as in retrace
    train, _ = storage.load(paths.TRAIN)
    test, _ = storage.load(watched)
    tutorial = import_module(f"tutorials.{name}").Tutorial(train, test)
    # As for retrace: garbage collection can take up to a third of a tutorial's time, by chance.
    gc.freeze()
    if what == "steps":
        steps = Steps(n)
        measurement = steps.time(lambda: [steps.step(samples) for samples in tutorial.epoch()])
    elif what == "tests":
        tutorial.test()
        measurement = timed(tutorial.test, n) | {"samples": len(test) * n}
    else:
        measurement = timed(lambda: (sum(tutorial.epoch()), tutorial.test())[1], n) | {
            "samples": len(train) * n
        }
    return measurement | {"of": len(train)}


def timed(call: Callable[[], float], n: int) -> Measurement:
    """Time `n` calls of `call`, which returns an accuracy. The last accuracy is used."""
    began = time.perf_counter()
    accuracy = [call() for _ in range(n)][-1]
    return {"seconds": time.perf_counter() - began, "accuracy": accuracy}


def ours(what: str, n: int, seed: int) -> None:
    """Run the train stage untracked, measure `what` in it, print the measurement and exit.

    "steps": `n` training steps. "loop": the training loop with its validation. "all": from a frozen
    backbone's features to the end of the loop. "tests": `n` tests. "again": the loop, `n` times.
    """
    untracked.replace()
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(
        re.sub(r"(?m)^seed: \d+", f"seed: {seed}", text), encoding="utf-8"
    )
    from lab.evaluation import inference
    from lab.training.loop import Trainer

    train = Trainer.train
    features = inference.features
    began = 0.0

    def timed_features(*given: Any) -> Any:
        nonlocal began
        began = began or time.perf_counter()
        return features(*given)

    def measured(trainer: Trainer, *_: object) -> None:
        print(json.dumps(Training(trainer, train, began).measure(what, n)), flush=True)
        os._exit(0)

    Trainer.train = measured  # pyright: ignore[reportAttributeAccessIssue]
    inference.features = timed_features
    runpy.run_path("stages/train.py", run_name="__main__")


class Training:
    """A training of the train stage that is about to begin, and its test split."""

    def __init__(self, trainer: Any, train: Callable[..., object], began: float) -> None:
        from lab import paths
        from lab.data import batches, storage

        self.trainer = trainer
        self.began = began
        self._train = train
        samples, _scale = storage.load(paths.TEST)
        self.test_split = batches.on_device(samples, trainer.state.device)

    def measure(self, what: str, n: int) -> Measurement:
        if what == "steps":
            steps = Steps(n)
            return steps.time(lambda: self.train(lambda step: steps.step(step.n_images)))
        if what == "tests":
            self.test()
            return timed(self.test, n) | {"samples": len(self.test_split) * n}
        if what == "again":
            return again(self, n)
        measurement = timed(self.train, 1)
        if what == "all":
            return {"seconds": time.perf_counter() - self.began}
        return measurement | {"accuracy": self.test(), "weights": digest(self.trainer.state.model)}

    def train(self, on_step: Callable[[Any], None] = lambda _: None) -> float:
        self._train(self.trainer, on_step, on_epoch=lambda _: None)
        return 0.0

    def test(self) -> float:
        """Return the accuracy on the test split; compute the loss too, as the stage does."""
        from lab.evaluation import inference, scores

        logits = inference.outputs(self.trainer.state.model, self.test_split).logits
        scores.loss(logits, self.test_split.labels)
        return scores.accuracy(logits, self.test_split.labels)


def again(training: Training, n: int) -> Measurement:
    """Time the loop `n` times from the same start, after one warm-up.

    Each turn also times the loop with the fastest kernels (`free_s`). A CUDA graph of those need
    not give bit-identical results.
    """
    import torch

    state = training.trainer.state
    start = {
        key: value.clone() if hasattr(value, "clone") else value
        for key, value in state.state_dict().items()
    }
    seconds = []
    free_s = []
    weights = []
    for _ in range(1 + n):
        free_s.append(once(training, start, free=True))
        seconds.append(once(training, start, free=False))
        weights.append(digest(state.model))
    return {
        "seconds": median(seconds[1:]),
        "free_s": median(free_s[1:]),
        "weights": weights,
        "accuracy": training.test(),
        "device": torch.cuda.get_device_name() if state.device.type == "cuda" else "cpu",
    }


def once(training: Training, start: dict[str, Any], *, free: bool) -> float:
    """Train from the state `start` and return the seconds; `free` allows the fastest kernels."""
    import torch

    from lab.training import cuda_graph

    torch.set_deterministic_debug_mode("default" if free else "error")
    torch.backends.cudnn.benchmark = free
    equal = cuda_graph.equal
    if free:
        cuda_graph.equal = lambda *_: True
    state = training.trainer.state
    training.trainer.state = type(state)(state.model, state.optimizer, state.device)
    training.trainer.state.load_state_dict(start)
    began = time.perf_counter()
    training.train()
    seconds = time.perf_counter() - began
    cuda_graph.equal = equal
    return seconds


def digest(model: Any) -> str:
    """Return the SHA-256 of the weights."""
    checksum = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        checksum.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return checksum.hexdigest()


def main() -> None:
    which, name, what = sys.argv[1:4]
    n, seed = map(int, sys.argv[4:])
    if which == "ours":
        ours(what, n, seed)
    else:
        print(json.dumps(taught(name, what, n, seed)))


if __name__ == "__main__":
    main()
