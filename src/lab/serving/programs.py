"""Exported programs, kept for the next training of the same network.

What torch.export makes of a network follows from its card, not from its weights, and takes seconds, of imports for the
most part. So the packaged model is kept without its weights, which a pt2 archive has as plain bytes beside the program:
with others put in, it is the same model as if exported anew, and neither torch nor its compiler is needed for that.
"""

import hashlib
import io
import json
import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from safetensors import SafetensorError, safe_open

import retrace
from retrace.errors import DataError
from retrace.system import files

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


def of(card: Path) -> str:
    """What tells the network that `card` describes, as this code and these libraries make it, from every other one."""
    said = json.loads(card.read_bytes())
    decides = {name: value for name, value in said.items() if name not in ("epoch", "pretrained")}
    made_by = [CODE, platform.python_version(), *map(version, LIBRARIES)]
    return hashlib.sha256(json.dumps([decides, made_by], sort_keys=True).encode()).hexdigest()[:32]


def kept(network: str) -> Path | None:
    """The program of `network` as it was kept, if it was; a damaged one is deleted."""
    for program in _folder().glob(f"{network}-*"):
        if files.is_intact(program):
            return program
        program.unlink(missing_ok=True)
    return None


def keep(folder: Path, network: str) -> None:
    """The model packaged in `folder` is kept, but for its weights; not if there is no room, nor if the code has been
    edited since this process began and may be the new one in part. Of all programs the newest are kept.
    """
    if _code() != CODE:
        return
    content = io.BytesIO()
    with ZipFile(content, "w") as program, ZipFile(folder / PT2) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            name = file.relative_to(folder).as_posix()
            if name != PT2:
                program.writestr(ZipInfo(name), file.read_bytes())
        for name in archive.namelist():
            if name == CONFIG or not name.startswith(WEIGHTS):
                program.writestr(ZipInfo(f"{PT2}/{name}"), archive.read(name))
    digest = hashlib.sha256(content.getbuffer()).hexdigest()
    with suppress(OSError, DataError):
        with files.atomic(_folder() / f"{network}-{digest}.zip") as unfinished:
            unfinished.write_bytes(content.getbuffer())
        for old in sorted(_folder().iterdir(), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink()


def fill(program: Path, weights: Path, folder: Path) -> None:
    """`folder` holds the packaged model with these weights. Raises DataError where they are not of its network."""
    with ZipFile(program) as archive, _opened(weights) as tensors:
        config = json.loads(archive.read(f"{PT2}/{CONFIG}"))["config"]
        shapes = {
            name: [side["as_int"] for side in at["tensor_meta"]["sizes"]]
            for name, at in config.items()
        }
        if shapes != {
            f"{PREFIX}{name}": tensors.get_slice(name).get_shape() for name in tensors.keys()
        }:  # noqa: SIM118
            raise DataError(
                f"{weights}: not a trained model: not of this network; `dvc repro train` makes one"
            )
        (folder / PT2).parent.mkdir(parents=True)
        with ZipFile(folder / PT2, "w") as filled:
            for name in archive.namelist():
                if name.startswith(f"{PT2}/"):
                    filled.writestr(ZipInfo(name.removeprefix(f"{PT2}/")), archive.read(name))
                elif Path(name).name == name:
                    (folder / name).write_bytes(archive.read(name))
                else:
                    raise DataError(
                        f"{program}: {name!r} is no file of a packaged model; delete {program}"
                    )
            for name, at in config.items():
                tensor = tensors.get_tensor(name.removeprefix(PREFIX))
                filled.writestr(ZipInfo(f"{WEIGHTS}{at['path_name']}"), tensor.tobytes())


def _opened(weights: Path) -> safe_open:
    try:
        return safe_open(weights, "numpy")
    except SafetensorError as error:
        raise DataError(
            f"{weights}: not a trained model: {error}; `dvc repro train` makes one"
        ) from None


def _folder() -> Path:
    """In the repository, as checkpoints are: a cache folder may be others' too, who must not change what is served."""
    return files.root() / ".retrace/programs"
