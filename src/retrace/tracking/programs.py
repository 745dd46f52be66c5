"""Exported programs, kept for the next training of the same network.

What torch.export makes of a network follows from its card, not from its weights, and takes seconds, of imports for the
most part. So the packaged model is kept without its weights, which a pt2 archive has as plain bytes beside the program:
with others put in, it is the same model as if exported anew, and neither torch nor its compiler is needed for that.
"""

import hashlib
import json
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

from safetensors import safe_open

import retrace
from retrace import paths
from retrace.errors import DataError

PT2 = "data/model.pt2"
WEIGHTS = "model/data/weights/"  # in the archive
CONFIG = f"{WEIGHTS}model_weights_config.json"  # which file has which weight
PREFIX = "model."  # of the weights' names there, as a part of `Served`
LIBRARIES = ("torch", "mlflow", "numpy")


def of(card: Path) -> Path:
    """Where the program is kept, if it is, of the network that `card` describes, as this code and these libraries make
    it. In the repository, as checkpoints are: a cache folder may be others' too, who must not change what is served.
    """
    said = json.loads(card.read_bytes())
    decides = [{name: value for name, value in said.items() if name not in ("epoch", "pretrained")}]
    decides += [platform.python_version(), *map(version, LIBRARIES)]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
    for file in sorted(Path(retrace.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return paths.root() / ".retrace/programs" / f"{digest.hexdigest()[:32]}.zip"


def keep(folder: Path, program: Path) -> None:
    """`program` is the model packaged in `folder`, but for its weights; where there is no room, it is not kept."""
    with suppress(OSError, DataError), paths.atomic(program) as unfinished, ZipFile(unfinished, "w") as kept:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            name = file.relative_to(folder).as_posix()
            if name != PT2:
                kept.writestr(ZipInfo(name), file.read_bytes())
        with ZipFile(folder / PT2) as archive:
            for name in archive.namelist():
                if name == CONFIG or not name.startswith(WEIGHTS):
                    kept.writestr(ZipInfo(f"{PT2}/{name}"), archive.read(name))


def fill(program: Path, weights: Path, folder: Path) -> bool:
    """Whether `folder` holds the packaged model with these weights now; not if no program is kept, or a damaged one."""
    try:
        with ZipFile(program) as kept, safe_open(weights, "numpy") as tensors:
            (folder / PT2).parent.mkdir(parents=True)
            with ZipFile(folder / PT2, "w") as archive:
                for name in kept.namelist():
                    if name.startswith(f"{PT2}/"):
                        archive.writestr(ZipInfo(name.removeprefix(f"{PT2}/")), kept.read(name))
                    else:
                        (folder / name).write_bytes(kept.read(name))
                for name, place in json.loads(kept.read(f"{PT2}/{CONFIG}"))["config"].items():
                    content = tensors.get_tensor(name.removeprefix(PREFIX)).tobytes()
                    archive.writestr(ZipInfo(f"{WEIGHTS}{place['path_name']}"), content)
    except (OSError, BadZipFile, KeyError, ValueError):  # `keep` puts a better one in its place
        return False
    return True
