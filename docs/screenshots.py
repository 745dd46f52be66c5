"""docs/*.png of pages show them as they are here now: `python docs/screenshots.py`, or with the names of some.

    report    reports/report.html, by `dvc repro`: light, dark with a point of the map looked at, and on a phone

To add one: a function that takes a browser and a file to write, and its name in the table.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path

from browser import Browser
from PIL import Image

DOCS = Path(__file__).parent
GAP, GROUND = 24, "#8a929c"  # pixels between the pictures of a page, and what is seen there
COLOURS = 256  # of a picture, at most: as many as letters and lines need


def report(browser: Browser, path: Path) -> None:
    page, shots = DOCS.parent / "reports/report.html", []
    for width, dark, section in ((1060, False, "body"), (1060, True, "#map"), (390, True, "#confusion")):
        browser.look(width, 1060, dark=dark, scale=0.75)
        browser.open(page)
        browser.scroll_to(section)
        if section == "#map":
            browser.point(*browser.middle("#map .wrong"))
        shots.append(browser.shot())
    save(shots, path)


def save(shots: list[bytes], path: Path) -> None:
    """`path` has the pictures side by side."""
    pictures = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    size = sum(one.width + GAP for one in pictures) + GAP, max(one.height for one in pictures) + 2 * GAP
    whole, left = Image.new("RGB", size, GROUND), GAP
    for one in pictures:
        whole.paste(one, (left, GAP))
        left += one.width + GAP
    whole.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


SHOTS: dict[str, Callable[[Browser, Path], None]] = {"report": report}


def main() -> None:
    names = sys.argv[1:] or list(SHOTS)
    if unknown := [name for name in names if name not in SHOTS]:
        sys.exit(f"{unknown[0]} is no picture; should be one of {', '.join(SHOTS)}")
    with Browser.started() as browser:
        for name in names:
            SHOTS[name](browser, DOCS / f"{name}.png")


if __name__ == "__main__":
    main()
