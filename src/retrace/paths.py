"""Every file that the pipeline reads or writes, relative to the folder in which it runs.

Under `dvc exp run --temp` and the queue that folder is a throw-away copy; what must outlive it
(journals, checkpoints, the MLflow store) hangs on `root()` instead.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from retrace.errors import FULL, DataError

PARAMS = Path("params.yaml")
GRAPH = Path("dvc.yaml")

IMAGES = Path("data/images")
RAW = Path("data/raw")
PROCESSED = Path("data/processed")
TRAIN = PROCESSED / "train.safetensors"
VALIDATION = PROCESSED / "validation.safetensors"
TEST = PROCESSED / "test.safetensors"

WEIGHTS = Path("models/model.safetensors")
CARD = Path("models/model.json")

HISTORY = Path("reports/history.csv")
STEPS = Path("reports/steps.csv")
BATCH = Path("reports/batch.safetensors")
METRICS = Path("reports/metrics.json")
CLASSES = Path("reports/classes.csv")
CONFUSION = Path("reports/confusion.csv")
PREDICTIONS = Path("reports/predictions.safetensors")
VIEWS = Path("reports/views.safetensors")
SUMMARY = Path("reports/summary.txt")
FIGURES = Path("reports/figures")
REPORT = Path("reports/report.html")


def root() -> Path:
    """The main repository, absolute: what must outlive a queued or `--temp` experiment belongs under it."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def cache(name: str) -> Path:
    """Where files of a data set, or `weights`, outlive every clone: in RETRACE_CACHE, or the user's cache folder."""
    return Path(os.environ.get("RETRACE_CACHE") or platformdirs.user_cache_path("retrace")) / name


@contextmanager
def atomic(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yield a name beside `path` to write to; it becomes `path`, whole and on disk, or nothing does. Raises DataError
    where it does not fit, which says its `size` in bytes if that is known.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except Exception as error:
        if not _is_full(error):
            raise
        written = unfinished.stat().st_size if unfinished.exists() else 0
        needed = f"more than {written:,} bytes" if size is None else f"{size:,} bytes"
        free = f"{shutil.disk_usage(path.parent).free:,} are free"
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: {needed} can't be written ({reason}; {free}); make room for it") from None
    finally:
        unfinished.unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    """Whether the file is as it was written, whose name ends, but for the suffix, with its SHA-256."""
    with path.open("rb") as file:
        return path.stem.endswith(hashlib.file_digest(file, "sha256").hexdigest())


def _is_full(error: Exception) -> bool:
    """Whether there was no room for a file: as the system says it, or as safetensors does."""
    said = re.search(r"os error (\d+)", str(error))
    return getattr(error, "errno", None) in FULL or (said is not None and int(said[1]) in FULL)
