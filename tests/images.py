"""Images in data/images, and the samples that the lab reads from them."""

import io
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from lab import paths
from lab.data.datasets import image_folder
from lab.data.samples import Samples, Splits

RED, GREEN, WHITE = (200, 30, 40), (20, 180, 60), (255, 255, 255)


def encoded(image: Image.Image, form: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()


def plain(mode: str = "RGB", colour: Any = RED, size: tuple[int, int] = (20, 10)) -> Image.Image:
    return Image.new(mode, size, colour)


def put(name: str, content: bytes) -> Path:
    path = paths.IMAGES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read(resize: int = 8, crop: int = 8, on_bad: Literal["fail", "skip"] = "fail") -> Splits:
    image_folder.collect(paths.RAW)
    return image_folder.read(paths.RAW, resize=resize, crop=crop, on_bad=on_bad)


def by_name(samples: Samples) -> dict[str, tuple[bytes, str]]:
    return {
        samples.name(i): (samples.inputs[i].tobytes(), samples.label(i))
        for i in range(len(samples))
    }
