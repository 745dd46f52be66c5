"""Measure images per second of each augmentation, and of torchvision's for one image at a time.

Both take the same images of a stored size and give what the network sees. In turns; nothing else
should run on the machine.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import table
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from lab.data.batches import ALL, Draws
from lab.params import Choice
from lab.training import augmentations
from retrace.pipeline import params_yaml

PAGE = Path("docs/training.md")
BEGIN = "<!-- augmentations -->\n"
END = "<!-- /augmentations -->\n"
TOP = ("augmentation", "images/s", "torchvision, images/s", "ratio", "n")
JITTER = ("brightness", "contrast", "saturation", "hue")

Batch = Callable[[Tensor], object]


def reference(name: str, settings: dict[str, Any], side: int) -> Sequence[torch.nn.Module]:
    """Return torchvision's classes for an augmentation; none where it has no such."""
    if name in ("random_resized_crop", "photo"):
        crop = v2.RandomResizedCrop(side, scale=settings["scale"], antialias=True)
        flip = v2.RandomHorizontalFlip()
        if name == "random_resized_crop":
            return crop, flip
        erase = v2.RandomErasing(settings["erasing"], value=128)
        return crop, flip, v2.TrivialAugmentWide(), erase
    known = {
        "color_jitter": lambda: v2.ColorJitter(**{key: settings[key] for key in JITTER}),
        "rand_augment": lambda: v2.RandAugment(settings["num_ops"], settings["magnitude"]),
        "trivial_augment": v2.TrivialAugmentWide,
        "random_erasing": lambda: v2.RandomErasing(settings["probability"], value=128),
    }
    return [v2.CenterCrop(side), known[name]()] if name in known else []


def photos(n: int, side: int) -> Tensor:
    """Return smooth images of three channels."""
    coarse = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8)
    return functional.resize(coarse, [side, side], antialias=True)


def rate(work: Batch, images: Tensor) -> float:
    """Return the number of images per second of one pass."""
    start = time.perf_counter()
    work(images)
    return len(images) / (time.perf_counter() - start)


def measured(name: str, settings: dict[str, Any], images: Tensor, side: int, n: int) -> str:
    """Return an augmentation's line of the table: medians of `n` passes."""
    augment = augmentations.create(Choice(name=name, settings=settings), (side, side))
    assert augment is not None
    generator = torch.Generator().manual_seed(0)
    transforms = reference(name, settings, side)
    single = v2.Compose(transforms) if transforms else None
    rates: list[float] = []
    references: list[float] = []
    for number in range(n + 1):  # the first pass warms up
        ours = rate(lambda batch: augment(batch, Draws(generator, len(batch), ALL)), images)
        theirs = rate(lambda batch: [single(image) for image in batch], images) if single else 0.0
        if number:
            rates.append(ours)
            references.append(theirs)
    own = median(rates)
    other = median(references)
    compared = (f"{other:,.0f}", f"{own / other:.1f}") if single else ("", "")
    return table.line(f"`{name}`", f"{own:,.0f}", *compared, f"{n}")


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--n", type=int, default=5, help="passes (default: 5)")
    parser.add_argument("--batch", type=int, default=64, help="images of a batch (default: 64)")
    parser.add_argument("--stored", type=int, default=256, help="side in pixels (default: 256)")
    parser.add_argument("--seen", type=int, default=224, help="of what is seen (default: 224)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--write", action="store_true", help=f"write the table to {PAGE}")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images = photos(args.batch, args.stored)
    lines = [table.line(*TOP), table.line(*["---"] * len(TOP))]
    print("\n".join(lines))
    for name, settings in params_yaml.read()["augmentations"].items():
        if name != "none":
            lines.append(measured(name, settings, images, args.seen, args.n))
            print(lines[-1], flush=True)
    if args.write:
        table.replace(PAGE, BEGIN, END, lines)


if __name__ == "__main__":
    main()
