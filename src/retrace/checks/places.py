"""Where DVC's own files are, read from its configuration without opening the repository, which writes."""

import os
from pathlib import Path
from typing import Any

DVC = Path(".dvc")
EXPERIMENTS = DVC / "tmp" / "exps"


def config() -> dict[str, Any]:
    """DVC's configuration: the repository's, the user's and the machine's in one."""
    from dvc.config import Config

    return dict(Config(dvc_dir=str(DVC.absolute())))


def cache() -> Path:
    """The folder of DVC's cache."""
    return Path(config()["cache"].get("dir") or DVC / "cache")


def objects() -> Path:
    """The folder of the files in it, by their MD5."""
    return cache() / "files" / "md5"


def site() -> Path:
    """Where DVC keeps what it unpickles."""
    from dvc.dirs import site_cache_dir

    return Path(os.environ.get("DVC_SITE_CACHE_DIR") or site_cache_dir(config()["core"].get("site_cache_dir")))
