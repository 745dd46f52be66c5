"""An encoded picture as pixels: of bounded size, whatever the file says of itself."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from retrace.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # whatever the suffix: the content decides, and no exotic decoder runs
MOST_BYTES = 1 << 28  # a file
MOST_PIXELS = 50_000_000  # which take a gigabyte of memory or two while they are decoded


def content(path: Path) -> bytes:
    """All of a file. Raises DataError with the reason where it is none, is too large, or can't be read."""
    try:
        if not path.is_file():
            gone = "a link to nothing" if path.is_symlink() else "no such file"
            raise DataError("not a file" if path.exists() else gone)
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path.stat().st_size:,} bytes, more than {MOST_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(error.strerror or str(error)) from None


def pixels(content: bytes, shape: Sequence[int], resize: int) -> np.ndarray:
    """An encoded picture of any size as an input of `shape` (channels, side, side), uint8; grey where there is one
    channel. Its shorter edge becomes `resize` pixels, of which the square in the middle is kept. Raises DataError as
    `decoded` does.
    """
    channels, side, _ = shape
    image = decoded(content)
    return square(image if channels == 3 else image.convert("L"), resize, side)


def decoded(content: bytes) -> Image.Image:
    """The first frame, upright, in RGB. Raises DataError with the reason where any of it can't be decoded."""
    if not content:
        raise DataError("empty")
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Image.DecompressionBombError
            if image.format != "PNG":
                return _upright(image)
            image.verify()  # its checksums, which decoding skips; others have none
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            return _upright(image)
    except UnidentifiedImageError:
        raise DataError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image") from None
    except Image.DecompressionBombError:
        raise DataError(f"more than {MOST_PIXELS:,} pixels") from None
    except MemoryError:  # the machine's fault, and no picture's
        raise
    except Exception as error:  # noqa: BLE001 - a decoder raises whatever a broken file leads it to
        raise DataError(" ".join(f"{error}".split()) or type(error).__name__) from None


def square(image: Image.Image, resize: int, crop: int) -> np.ndarray:
    """The middle of `image`, of shape (channels, crop, crop), as if its shorter edge had been made `resize` pixels
    before.
    """
    # Cut out and shrunk in one go: a strip a pixel wide must not be enlarged as a whole.
    side = min(image.size) * crop / resize
    left, top = ((edge - side) / 2 for edge in image.size)
    middle = image.resize((crop, crop), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.atleast_3d(np.asarray(middle)).transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    return _rgb(image)


def _rgb(image: Image.Image) -> Image.Image:
    """8 bits a channel, by the high byte where there are 16; what is transparent lets white through."""
    if image.mode.startswith("I"):
        grey, transparent = np.asarray(image), image.info.get("transparency")
        image = Image.fromarray((grey >> 8).astype(np.uint8))
        if transparent is not None:
            image.putalpha(Image.fromarray(np.where(grey == transparent, 0, 255).astype(np.uint8)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it
