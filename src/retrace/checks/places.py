"""The locations of DVC's own files, read from its configuration: opening the repository writes."""

import os
from pathlib import Path
from typing import Any

DVC = Path(".dvc")
EXPERIMENTS = DVC / "tmp" / "exps"


def config() -> dict[str, Any]:
    """Return DVC's configuration: the repository's, the user's and the machine's merged."""
    from dvc.config import Config

    return dict(Config(dvc_dir=str(DVC.absolute())))


def cache() -> Path:
    """Return the folder of DVC's cache."""
    return Path(config()["cache"].get("dir") or DVC / "cache")


def objects() -> Path:
    """Return the folder of its files, named by their MD5."""
    return cache() / "files" / "md5"


def site() -> Path:
    """Return the folder of the files that DVC unpickles."""
    from dvc.dirs import site_cache_dir

    return Path(os.environ.get("DVC_SITE_CACHE_DIR") or site_cache_dir(config()["core"].get("site_cache_dir")))
