"""Images embedded in a page as `data:` URLs."""

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIDE = 64  # pixels, at most, of a sample on a sheet


@dataclass(frozen=True)
class Sheet:
    """Images of one size side by side, row by row."""

    address: str
    columns: int
    rows: int
    width: int  # of one image, in pixels
    height: int


def address(content: bytes, kind: str) -> str:
    """Return the `data:` URL of an image file's content."""
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def file(path: Path) -> str:
    """Return the `data:` URL of the PNG at `path`."""
    return address(path.read_bytes(), "png")


def encode(image: np.ndarray, most: int) -> str:
    """Encode an image (channels, height, width) uint8, gray or RGB.

    It is scaled down if a side has more than `most` pixels.
    """
    return _encode(_shrink(image, most))


def sheet(images: Sequence[np.ndarray] | np.ndarray) -> Sheet:
    """Encode images side by side, in about a square."""
    small = [_shrink(image, SIDE) for image in images]
    height, width = small[0].shape[:2]
    columns = int(np.ceil(np.sqrt(len(small))))
    rows = -(-len(small) // columns)
    pixels = np.zeros((rows * height, columns * width, *small[0].shape[2:]), np.uint8)
    for i, image in enumerate(small):
        row, column = divmod(i, columns)
        top, left = row * height, column * width
        pixels[top : top + height, left : left + width] = image
    return Sheet(_encode(pixels), columns, rows, width, height)


def _shrink(image: np.ndarray, most: int) -> np.ndarray:
    """Return pixels (height, width), or (height, width, 3)."""
    from PIL import Image

    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    if max(pixels.shape[:2]) <= most:
        return pixels
    scale = most / max(pixels.shape[:2])
    size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
    full = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(full.resize((size[0], size[1])))


def _encode(pixels: np.ndarray) -> str:
    """Encode as WebP: gray images lossless, color images lossy."""
    from PIL import Image

    content = io.BytesIO()
    is_gray = pixels.ndim == 2
    quality = {"lossless": True, "quality": 50} if is_gray else {"quality": 80}
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.save(content, "WEBP", method=2, **quality)
    return address(content.getvalue(), "webp")
