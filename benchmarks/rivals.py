"""Compare retrace with what people would pick instead: `python benchmarks/rivals.py`.

Plain PyTorch with DataLoader's workers, Lightning with its MLFlowLogger, and fastai (all in
benchmarks/contenders/) train the same network on the same data with the same recipe, in turns, each
from its command to its finished run in MLflow. They have an environment of their own, from
benchmarks/requirements.txt: `make rivals` creates it. retrace runs all its stages up to `evaluate`.
Each turn is stored in benchmarks/rivals.json at once. `--write` writes the table to docs/speed.md.
"""

import json
import os
import sqlite3
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from bench import commit, demand_quiet
from clones import Clone
from PIL import Image
from table import head, line, place
from table import replace as replace_between

from retrace import errors
from retrace.errors import RetraceError
from retrace.pipeline import overrides
from retrace.system import files, machine

PAGE = Path("docs/speed.md")
RECORD = Path("benchmarks/rivals.json")
BEGIN, END = "<!-- rivals -->\n", "<!-- /rivals -->"
ENVIRONMENT = Path(".retrace/rivals")
MODULES = {"plain PyTorch": "plain", "Lightning": "lightning_trainer", "fastai": "fastai_learner"}
OURS = "retrace"
CONTENDERS = (*MODULES, OURS)
TOP = ("on two CPU cores", "measured", *CONTENDERS, "retrace to the best of them", "target", "n")
N_PHOTOS = 400
# Of MLflow's database, since a time in milliseconds.
ENDED = (
    "SELECT COUNT(*) FROM runs JOIN tags USING (run_uuid) "
    "WHERE end_time >= ? AND key = 'retrace.stage' AND value = 'evaluate'"
)
RUNNING = "SELECT COUNT(*) FROM runs WHERE start_time >= ? AND status = 'RUNNING'"
SPEEDS = "SELECT value FROM metrics WHERE timestamp >= ? AND key = 'images_per_s' ORDER BY step"
TINY = {"epochs": 2, "photos": 40, "share": 0.02}  # a try of the program, not a measurement


@dataclass(frozen=True)
class Row:
    """A training: `ours` are changes of params.yaml, `job` those of contenders/job.py."""

    name: str
    title: str
    ours: dict[str, Any]
    job: dict[str, Any]
    speed_target: float  # ratio to the best of the others; 0: no target
    share: float = 1.0  # of the samples outside test

    @property
    def dataset(self) -> str:
        return self.ours["dataset"]

    def tiny(self) -> "Row":
        return replace(self, ours=self.ours | {"epochs": TINY["epochs"]}, share=TINY["share"])


@dataclass
class Measured:
    """What was measured of a row so far, by contender, a value for each turn."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    images_per_s: dict[str, list[float]] = field(default_factory=dict)
    accuracies: dict[str, list[float]] = field(default_factory=dict)  # on the test split
    limits: list[dict[str, Any]] = field(default_factory=list)
    where: str = ""

    def add(self, who: str, seconds: float, speeds: list[float], accuracy: float) -> None:
        """Add a turn. An epoch's speed is the median, without the first, which warms up."""
        self.seconds.setdefault(who, []).append(seconds)
        self.images_per_s.setdefault(who, []).append(median(speeds[1:] or speeds))
        self.accuracies.setdefault(who, []).append(accuracy)


SMALL = {"epochs": 5, "batch_size": 128, "lr": 0.005}
MNIST = {"optimizer": "adamw", "schedule": "one_cycle", "augmentation": "shift"}
CIFAR = {"epochs": 3, "batch_size": 64, "lr": 0.01, "optimizer": "sgd", "schedule": "constant"}
PHOTOS = {"batch_size": 32, "lr": 0.001, "optimizer": "adamw", "schedule": "one_cycle"}


def _photos(name: str, title: str, network: str, *, frozen: bool) -> Row:
    """Return a row of fine-tuning on photos at 224 pixels; its weights are random."""
    recipe = PHOTOS | {"epochs": 5 if frozen else 3}
    ours = recipe | {
        "dataset": "image_folder",
        "datasets.image_folder.resize": 256,
        "datasets.image_folder.crop": 224,
        "model": "timm" if network == "efficientnet_lite0" else "torchvision",
        "models.timm.name": "tf_efficientnet_lite0",
        "scaling": "imagenet",
        "freeze_backbone": frozen,
        "augmentation": "none" if frozen else "crop_flip",
        "augmentations.crop_flip.padding": [0, 0, 0, 0],
        "keep": "last",
    }
    job = recipe | {"network": network, "frozen": frozen, "n_classes": 2}
    job["augmentation"] = "none" if frozen else "flip"
    return Row(name, title, ours, job, speed_target=0.0 if frozen else 1.0)


# fmt: off
ROWS = (
    Row("mnist_cnn", "MNIST CNN, the default recipe",
        SMALL | {"dataset": "mnist"} | MNIST,
        SMALL | MNIST | {"network": "cnn", "n_classes": 10}, 1.5),
    Row("cifar_v3", "cifar_v3, a tenth of CIFAR-10, 3 epochs",
        CIFAR | {"dataset": "cifar10", "model": "cifar_v3", "augmentation": "crop_flip",
                 "optimizers.sgd.nesterov": False, "optimizers.sgd.weight_decay": 0.0},
        CIFAR | {"network": "cifar_v3", "augmentation": "crop_flip", "n_classes": 10}, 1.5,
        share=0.1),
    _photos("resnet18_frozen", "ResNet-18 on 400 photos, head only, 5 epochs", "resnet18",
            frozen=True),
    _photos("resnet18_full", "ResNet-18 on 400 photos, all layers, 3 epochs", "resnet18",
            frozen=False),
    _photos("lite0_frozen", "EfficientNet-Lite0 on 400 photos, head only, 5 epochs",
            "efficientnet_lite0", frozen=True),
    _photos("lite0_full", "EfficientNet-Lite0 on 400 photos, all layers, 3 epochs",
            "efficientnet_lite0", frozen=False),
)
# fmt: on
TIME_TARGET = 1.5


def photos(folder: Path, n: int) -> None:
    """Write `n` JPEG files of smooth random textures in two classes, of different colors."""
    random = np.random.default_rng(0)
    for number in range(n):
        label = number % 2
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        coarse[..., 2 * label] //= 3
        image = Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC)
        path = folder / f"class_{label}" / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=90)


def prepared(folder: Path, row: Row, n_photos: int) -> Clone:
    """Return a clone with the row's parameters and packed data."""
    clone = Clone(folder / row.name, row.dataset)
    changes = dict(row.ours)
    if row.dataset == "image_folder":
        photos(clone.path / "data/images", n_photos)
    elif row.share < 1:
        changes["class_shares"] = [row.share] * row.job["n_classes"]
    words = [f"--set-param={key}={overrides.literal(value)}" for key, value in changes.items()]
    clone.run("dvc", "exp", "run", "--quiet", *words, "preprocess")
    clone.env["MLFLOW_TRACKING_URI"] = f"sqlite:///{clone.path}/mlflow.db"
    return clone


def ours(clone: Clone) -> tuple[float, list[float], float]:
    """Run the stages up to `evaluate`; return seconds, images/s of each epoch, test accuracy."""
    began_at = time.time()
    began = time.perf_counter()
    clone.run("dvc", "repro", "--quiet", "--force", "--no-run-cache", "evaluate")
    while not _is_finished(clone, began_at):
        if time.time() > began_at + 3600:
            raise RetraceError("the run of `evaluate` is not finished in MLflow; see retrace sync")
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    metrics = json.loads((clone.path / "reports/metrics.json").read_text(encoding="utf-8"))
    speeds = _query(clone, SPEEDS, began_at)
    return seconds, [speed for (speed,) in speeds], metrics["test_accuracy"]


def _is_finished(clone: Clone, began_at: float) -> bool:
    """Return whether MLflow has the last stage's run, and none is running."""
    ((ended,),) = _query(clone, ENDED, began_at)
    ((running,),) = _query(clone, RUNNING, began_at)
    return ended > 0 and running == 0


def _query(clone: Clone, text: str, since: float) -> list[tuple[float]]:
    with sqlite3.connect(clone.path / "mlflow.db", timeout=60) as store:
        return store.execute(text, (int(since * 1000),)).fetchall()


def theirs(clone: Clone, module: str, job: dict[str, Any]) -> tuple[float, list[float], float]:
    """Run a contender in the clone; return the same."""
    python = Path.cwd() / ENVIRONMENT / "bin/python"
    began = time.perf_counter()
    output = _output(clone, python, module, job)
    seconds = time.perf_counter() - began
    result = json.loads(output.splitlines()[-1])
    return seconds, result["images_per_s"], result["accuracy"]


def _output(clone: Clone, python: Path, module: str, job: dict[str, Any]) -> str:
    own = {"PYTHONPATH": "benchmarks", "PYTHONWARNINGS": "ignore"}
    return clone.run(str(python), "-m", f"contenders.{module}", json.dumps(job), **own)


def measure(row: Row, n: int, *, is_tiny: bool) -> Iterator[Measured]:
    """Measure all contenders in `n` turns; yield what is measured so far after each."""
    measured = Measured(where=f"{machine.processor()}, {psutil.cpu_count()} cores, at {commit()}")
    with place() as folder:
        clone = prepared(folder, row, TINY["photos"] if is_tiny else N_PHOTOS)
        is_packed = row.dataset != "image_folder"
        data = clone.path / ("data/processed" if is_packed else "data/images")
        job = row.job | {"data": str(data), "epochs": row.ours["epochs"]}
        for seed in range(n):
            python = Path.cwd() / ENVIRONMENT / "bin/python"
            measured.limits.append(json.loads(_output(clone, python, "limit", job)))
            for who in CONTENDERS[seed % 4 :] + CONTENDERS[: seed % 4]:
                if not is_tiny:
                    demand_quiet()
                module = MODULES.get(who)
                turn = theirs(clone, module, job | {"seed": seed}) if module else ours(clone)
                measured.add(who, *turn)
            yield measured


def table(measured: dict[str, Measured]) -> Iterator[str]:
    """Yield the lines of the Markdown table, and those about the machine's limit."""
    yield line(*TOP)
    yield line(*["---"] * len(TOP))
    rows = [row for row in ROWS if row.name in measured]
    for row in rows:
        yield from lines(row, measured[row.name])
    yield ""
    top = ("on two CPU cores", "retrace, GFLOP/s", "the best other, GFLOP/s")
    yield line(*top, "best matrix product, bfloat16", "float32")
    yield line(*["---"] * (len(top) + 2))
    for row in rows:
        if row.speed_target:
            yield limit_line(row, measured[row.name])


def lines(row: Row, measured: Measured) -> Iterator[str]:
    """Yield a row's lines: seconds, images/s where epochs compute the same, and accuracy."""
    n = str(len(measured.seconds[OURS]))
    name = "from command to finished run"
    cells = [_cell(measured.seconds[who], " s") for who in CONTENDERS]
    ratio = min(median(measured.seconds[who]) for who in MODULES) / median(measured.seconds[OURS])
    yield line(row.title, name, *cells, f"{ratio:.2f}", _verdict(ratio, TIME_TARGET), n)
    if row.speed_target:
        speeds = measured.images_per_s
        cells = [_cell(speeds[who], "") for who in CONTENDERS]
        ratio = median(speeds[OURS]) / max(median(speeds[who]) for who in MODULES)
        verdict = _verdict(ratio, row.speed_target)
        yield line(row.title, "images/s of an epoch", *cells, f"{ratio:.2f}", verdict, n)
    cells = [f"{100 * median(measured.accuracies[who]):.2f} %" for who in CONTENDERS]
    yield line(row.title, "test accuracy", *cells, "", "", n)


def limit_line(row: Row, measured: Measured) -> str:
    """Return a line on the operations a second of training, and the machine's best."""
    limits = {
        key: max(limit[key] for limit in measured.limits)
        for key in ("bfloat16", "float32", "operations")
    }
    precision = measured.limits[0]["precision"]
    speeds = {who: median(values) for who, values in measured.images_per_s.items()}
    best = max(speeds[who] for who in MODULES)
    reached = [
        f"{speed * limits['operations'] / 1e9:,.0f} "
        f"({speed * limits['operations'] / 1e9 / limits[precision]:.0%} of {precision}'s)"
        for speed in (speeds[OURS], best)
    ]
    return line(row.title, *reached, f"{limits['bfloat16']:,.0f}", f"{limits['float32']:,.0f}")


def _cell(values: list[float], unit: str) -> str:
    digits = 1 if median(values) < 100 else 0
    span = f" ({min(values):,.{digits}f}..{max(values):,.{digits}f})" if len(values) > 1 else ""
    return f"{median(values):,.{digits}f}{unit}{span}"


def _verdict(ratio: float, target: float) -> str:
    return f"{target:g}: {'met' if ratio >= target else 'MISSED'}"


def recorded() -> dict[str, Measured]:
    """Return the recorded measurements of rows that still exist."""
    if not RECORD.exists():
        return {}
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    names = {row.name for row in ROWS}
    return {name: Measured(**fields) for name, fields in rows.items() if name in names}


def record(measured: dict[str, Measured]) -> None:
    rows = {row.name: asdict(measured[row.name]) for row in ROWS if row.name in measured}
    with files.atomic(RECORD) as unfinished:
        unfinished.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


def parsed() -> Namespace:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [row.name for row in ROWS]
    text = f"only this row; repeat for more: {', '.join(names)}"
    parser.add_argument("--row", action="append", choices=names, metavar="NAME", help=text)
    parser.add_argument("-n", type=int, default=3, help="turns of each (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"also write the table to {PAGE}")
    text = "try the program with little data, also on a busy machine; record and write nothing"
    parser.add_argument("--tiny", action="store_true", help=text)
    return parser.parse_args()


def main() -> None:
    args = parsed()
    if not (ENVIRONMENT / "bin/python").exists():
        raise RetraceError(f"{ENVIRONMENT} is missing; type `make rivals`")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    measured = recorded()
    head(*TOP)
    for row in ROWS:
        if args.row and row.name not in args.row:
            continue
        chosen = row.tiny() if args.tiny else row
        for so_far in measure(chosen, args.n, is_tiny=args.tiny):
            measured[row.name] = so_far
            if not args.tiny:
                record(measured)
        print(*lines(row, measured[row.name]), sep="\n", flush=True)
    if args.write and not args.tiny:
        replace_between(PAGE, BEGIN, END, table(measured))


if __name__ == "__main__":
    errors.run(main)
