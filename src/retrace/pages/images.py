"""Samples as pictures that a page carries in itself, as `data:` addresses."""

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIDE = 64  # pixels, at most, of a sample on a sheet


@dataclass(frozen=True)
class Sheet:
    """Pictures of one size side by side, row by row."""

    address: str
    columns: int
    rows: int
    width: int  # of one, in pixels
    height: int


def address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def file(path: Path) -> str:
    """The PNG at `path`."""
    return address(path.read_bytes(), "png")


def picture(image: np.ndarray, most: int) -> str:
    """`image` of shape (channels, height, width) uint8, grey or RGB; made smaller where a side has more than `most`
    pixels.
    """
    return _encoded(_smaller(image, most))


def sheet(images: Sequence[np.ndarray] | np.ndarray) -> Sheet:
    """All of `images`, as of `picture`, in about a square."""
    small = [_smaller(image, SIDE) for image in images]
    height, width = small[0].shape[:2]
    columns = int(np.ceil(np.sqrt(len(small))))
    rows = -(-len(small) // columns)
    whole = np.zeros((rows * height, columns * width, *small[0].shape[2:]), np.uint8)
    for i, one in enumerate(small):
        row, column = divmod(i, columns)
        whole[row * height : (row + 1) * height, column * width : (column + 1) * width] = one
    return Sheet(_encoded(whole), columns, rows, width, height)


def _smaller(image: np.ndarray, most: int) -> np.ndarray:
    """Of shape (height, width), or (height, width, 3)."""
    from PIL import Image

    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    if max(pixels.shape[:2]) <= most:
        return pixels
    scale = most / max(pixels.shape[:2])
    size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((size[0], size[1])))


def _encoded(pixels: np.ndarray) -> str:
    """Grey to the bit, colours nearly."""
    from PIL import Image

    is_grey, content = pixels.ndim == 2, io.BytesIO()
    lossless = {"lossless": True, "quality": 50} if is_grey else {"quality": 80}
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "WEBP", method=2, **lossless)
    return address(content.getvalue(), "webp")
