"""Decode image files of any origin into arrays of pixels, within limits of size and format."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from retrace.errors import DataError

# By content, whatever the suffix; rarer decoders never run.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF")
MAX_BYTES = 1 << 28  # of a file
MAX_PIXELS = 50_000_000  # which take up to two gigabytes of memory to decode
# Color profiles and texts: Pillow's limit of a megabyte is too low for those of printers and tools.
PngImagePlugin.MAX_TEXT_CHUNK = 1 << 26
PngImagePlugin.MAX_TEXT_MEMORY = MAX_BYTES


def content(path: Path) -> bytes:
    """Read a file. Raises DataError if it is missing, not a file, too large, or can't be read."""
    try:
        if not path.is_file():
            missing = "a broken symbolic link" if path.is_symlink() else "no such file"
            raise DataError("not a file" if path.exists() else missing)
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(error.strerror or str(error)) from None


def pixels(content: bytes, shape: Sequence[int], resize: int) -> np.ndarray:
    """Decode an image into an array of `shape` (channels, side, side), uint8; gray if one channel.

    The shorter edge is resized to `resize` pixels, then the center is cropped. Raises DataError
    as `decoded` does.
    """
    channels, side, _ = shape
    image = decoded(content)
    return square(image if channels == 3 else image.convert("L"), resize, side)


def decoded(content: bytes) -> Image.Image:
    """Decode the first frame, upright, in RGB. Raises DataError if any of it can't be decoded."""
    if not content:
        raise DataError("empty")
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if image.format != "PNG":
                return _upright(image)
            image.verify()  # checksums, which decoding skips; other formats have none
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            return _upright(image)
    except UnidentifiedImageError:
        raise DataError(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image") from None
    except Image.DecompressionBombError:
        raise DataError(f"more than {MAX_PIXELS:,} pixels") from None
    except MemoryError:  # the machine's fault, not the image's
        raise
    except Exception as error:  # noqa: BLE001 - for broken files, decoders raise errors of any type
        raise DataError(" ".join(f"{error}".split()) or type(error).__name__) from None


def square(image: Image.Image, resize: int, crop: int) -> np.ndarray:
    """Resize the shorter edge to `resize` pixels and crop the center: (channels, crop, crop)."""
    # In one operation: without the crop, a resized strip of one pixel's width would be enormous.
    side = min(image.size) * crop / resize
    left, top = ((edge - side) / 2 for edge in image.size)
    box = (left, top, left + side, top + side)
    center = image.resize((crop, crop), Image.Resampling.BILINEAR, box=box)
    return np.atleast_3d(np.asarray(center)).transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    return _rgb(image)


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB with 8 bits per channel, the high byte of 16 bits, on a white background."""
    if image.format == "TIFF" and image.mode in ("I", "F"):
        raise ValueError("32 bits per channel; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        gray = np.asarray(image)
        transparent = image.info.get("transparency")
        image = Image.fromarray((gray >> 8).astype(np.uint8))
        if transparent is not None:
            alpha = np.where(gray == transparent, 0, 255).astype(np.uint8)
            image.putalpha(Image.fromarray(alpha))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy it
