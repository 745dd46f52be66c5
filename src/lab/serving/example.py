"""The files beside an exported model: an example that runs it, and a README."""

from lab.models.classifier import ModelConfig
from lab.serving.formats import Format

EXAMPLE = '''\
"""{purpose}"""

import json
import sys
from pathlib import Path

import numpy as np
{imports}

folder = Path(__file__).parent
config = json.loads((folder / "model.json").read_text(encoding="utf-8"))
{load}

{inputs}
    logits = {call}[0]
    powers = np.exp(logits - logits.max())
    best = logits.argmax()
    print({name}, config["class_names"][best], f"{{powers[best] / powers.sum():.4f}}", sep="  ")
'''

IMAGES = """\
for path in sys.argv[1:]:
    channels, side, _ = config["shape"]
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB" if channels == 3 else "L")
    edge = min(image.size) * side / config["resize"]
    left, top = ((length - edge) / 2 for length in image.size)
    box = (left, top, left + edge, top + edge)
    image = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
    inputs = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)[None]"""

FEATURES = """\
for row in sys.argv[1:]:
    inputs = np.array([row.split(",")], dtype=np.float32)"""

README = """\
# {model}: {n_classes} classes, as {file}

- Input: {input}. Normalization is inside the model.
- Output: logits, float32 of shape (batch, {n_classes}), as `class_names` in model.json.
- On {checked} its logits differ from the trained network's by {difference:.1e} at most.

It needs Python with these packages and nothing else: `pip install {packages}`. Then:

    python example.py {argument}
"""


def example(kind: Format, config: ModelConfig) -> str:
    """Return the text of example.py."""
    are_images = len(config.shape) == 3
    use = "images: python example.py photo.png ..." if are_images else "rows: python example.py 1,2"
    pillow = "\nfrom PIL import Image, ImageOps" if are_images else ""
    return EXAMPLE.format(
        purpose=f"Classify {use}",
        imports=_sorted(kind.imports + pillow),
        load=kind.load,
        inputs=IMAGES if are_images else FEATURES,
        call=kind.call,
        name="path" if are_images else "row",
    )


def readme(
    kind: Format, config: ModelConfig, packages: str, *, checked: str, difference: float
) -> str:
    """Return the text of README.md."""
    are_images = len(config.shape) == 3
    shape = ", ".join(map(str, ("batch", *config.shape)))
    inputs = f"pixels 0..255, uint8 of shape ({shape}): channels, height, width; RGB"
    if config.shape[0] == 1:
        inputs = inputs.removesuffix("RGB") + "gray"
    return README.format(
        model=config.model,
        n_classes=len(config.class_names),
        file=kind.file,
        input=inputs if are_images else f"features, float32 of shape ({shape})",
        checked=checked,
        difference=difference,
        packages=packages,
        argument="photo.png" if are_images else ",".join("0" for _ in range(config.shape[0])),
    )


def _sort_key(line: str) -> tuple[bool, str]:
    return line.startswith("from"), line.casefold()


def _sorted(imports: str) -> str:
    """Return lines of imports, plain ones first."""
    return "\n".join(sorted(imports.splitlines(), key=_sort_key))
