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
from zipfile import ZipFile, ZipInfo

from safetensors import safe_open

import retrace
from retrace import paths
from retrace.errors import DataError

PT2 = "data/model.pt2"
WEIGHTS = "model/data/weights/"  # in the archive
CONFIG = f"{WEIGHTS}model_weights_config.json"  # which file has which weight
PREFIX = "model."  # of the weights' names there, as a part of `Served`
LIBRARIES = ("torch", "torchvision", "mlflow", "numpy")
KEPT = 50  # programs, of tens of kilobytes


def _code() -> str:
    """The digest of this package as it is on the disk."""
    digest = hashlib.sha256()
    for file in sorted(Path(retrace.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


CODE = _code()  # that this process runs, whatever is edited later


def of(card: Path) -> Path:
    """Where the program is kept, if it is, of the network that `card` describes, as this code and these libraries make
    it. In the repository, as checkpoints are: a cache folder may be others' too, who must not change what is served.
    """
    said = json.loads(card.read_bytes())
    decides = {name: value for name, value in said.items() if name not in ("epoch", "pretrained")}
    made_by = [CODE, platform.python_version(), *map(version, LIBRARIES)]
    digest = hashlib.sha256(json.dumps([decides, made_by], sort_keys=True).encode())
    return paths.root() / ".retrace/programs" / f"{digest.hexdigest()[:32]}.zip"


def keep(folder: Path, program: Path) -> None:
    """`program` is the model packaged in `folder`, but for its weights; not if there is no room, nor if the code has
    been edited since this process began and may be the new one in part. Of all programs the newest are kept.
    """
    if _code() != CODE:
        return
    with suppress(OSError, DataError), paths.atomic(program) as unfinished, ZipFile(unfinished, "w") as kept:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            name = file.relative_to(folder).as_posix()
            if name != PT2:
                kept.writestr(ZipInfo(name), file.read_bytes())
        with ZipFile(folder / PT2) as archive:
            for name in archive.namelist():
                if name == CONFIG or not name.startswith(WEIGHTS):
                    kept.writestr(ZipInfo(f"{PT2}/{name}"), archive.read(name))
    with suppress(OSError):
        for old in sorted(program.parent.iterdir(), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink()


def fill(program: Path, weights: Path, folder: Path) -> None:
    """`folder` holds the packaged model with these weights. Raises where no program is kept, where it is damaged, and
    where the weights are not those of its network.
    """
    with ZipFile(program) as kept, safe_open(weights, "numpy") as tensors:
        config = json.loads(kept.read(f"{PT2}/{CONFIG}"))["config"]
        if {name.removeprefix(PREFIX) for name in config} != set(tensors.keys()):
            raise ValueError("the weights have other names")
        (folder / PT2).parent.mkdir(parents=True)
        with ZipFile(folder / PT2, "w") as archive:
            for name in kept.namelist():
                if name.startswith(f"{PT2}/"):
                    archive.writestr(ZipInfo(name.removeprefix(f"{PT2}/")), kept.read(name))
                elif Path(name).name == name:
                    (folder / name).write_bytes(kept.read(name))
                else:
                    raise ValueError(f"{name!r} is no file of a packaged model")
            for name, place in config.items():
                tensor = tensors.get_tensor(name.removeprefix(PREFIX))
                if list(tensor.shape) != [side["as_int"] for side in place["tensor_meta"]["sizes"]]:
                    raise ValueError(f"{name} has the shape {tensor.shape}")
                archive.writestr(ZipInfo(f"{WEIGHTS}{place['path_name']}"), tensor.tobytes())
