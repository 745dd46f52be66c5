"""Augmentations of a batch of training images, by the name in params.yaml.

To add one: a function in a module here that takes the batch, a source of random numbers, the height
and width that the network sees and, as keyword-only arguments, its settings, and returns images of
that size; a line in the table; its settings under `augmentations:`. Every random number is from
that source, which draws for each image: an image is augmented alike in any batch or process.
"""

from collections.abc import Callable

from lab import params
from lab.data.batches import Augment
from lab.params import Choice
from lab.shapes import Inputs
from lab.training.augmentations.color import color_jitter
from lab.training.augmentations.crops import (
    crop_flip,
    crop_flip_cutout,
    cutout,
    none,
    random_erasing,
    random_resized_crop,
    shift,
)
from lab.training.augmentations.policies import photo, rand_augment, trivial_augment

AUGMENTATIONS: dict[str, Callable[..., Inputs]] = {
    "none": none,
    "crop_flip": crop_flip,
    "shift": shift,
    "cutout": cutout,
    "crop_flip_cutout": crop_flip_cutout,
    "random_resized_crop": random_resized_crop,
    "color_jitter": color_jitter,
    "rand_augment": rand_augment,
    "trivial_augment": trivial_augment,
    "random_erasing": random_erasing,
    "photo": photo,
}


def create(choice: Choice, seen: tuple[int, ...]) -> Augment | None:
    """Return the chosen augmentation, for images of which the network sees `seen`.

    None for `none`. Raises ParamsError for invalid settings.
    """
    augment = params.bind(AUGMENTATIONS, choice, "augmentations")
    if choice.name == "none":
        return None
    return lambda images, random: augment(images, random, seen)
