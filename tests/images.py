"""Images in data/images, and the samples that the lab reads from them."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
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


def zipped(contents: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(contents: Mapping[str, bytes], mode: Any = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


PACKS: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "photos.zip": zipped,
    "photos.tar": tarred,
    "Photos.TAR.GZ": lambda contents: tarred(contents, "w:gz"),
    "photos.tgz": lambda contents: tarred(contents, "w:gz"),
}
