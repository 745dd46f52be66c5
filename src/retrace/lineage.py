"""What git and DVC know about the run at hand: where it belongs, which experiment it is, which bytes it reads.

Hashes are DVC's own, computed the way DVC does: the MD5 of a file, and for a folder the MD5 of a listing. A stage can
so name what it made before DVC has written it to dvc.lock.
"""

import getpass
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from retrace import paths

CODE = ("src/retrace/**/*.py", "stages/*.py", "dvc.yaml")


def root() -> Path:
    """The main repository, absolute: what must outlive a queued or `--temp` experiment belongs under it."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def commit() -> str | None:
    """The commit that the work tree stands on; an experiment's own commit exists only after its stages."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else None


def user() -> str:
    """Who runs this; the number where the user has no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def experiment() -> dict[str, str]:
    """DVC's name of the experiment and the commit it was made from; empty outside `dvc exp run`."""
    names = {"dvc.exp_name": "DVC_EXP_NAME", "dvc.baseline_rev": "DVC_EXP_BASELINE_REV"}
    return {tag: os.environ[name] for tag, name in names.items() if os.environ.get(name)}


def key(values: Mapping[str, Any]) -> str:
    """The experiment's identity: equal if and only if parameters and code are, and your own images where the data set
    is made of them. 32 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    for file in sorted(file for pattern in CODE for file in Path().glob(pattern)):
        digest.update(f"\0{file}\0".encode() + file.read_bytes())
    if values["dataset"] == "image_folder" and paths.IMAGES.exists():
        digest.update(md5(paths.IMAGES).encode())
    return digest.hexdigest()[:32]


def files_of(stage: str, values: Mapping[str, Any]) -> tuple[list[Path], list[Path]]:
    """The dependencies and the outputs of `stage` in dvc.yaml, with its `${...}` filled in from `values`."""
    text = re.sub(r"\$\{([\w.]+)\}", lambda name: str(_looked_up(values, name[1])), paths.GRAPH.read_text())
    declared = yaml.safe_load(text)["stages"][stage]
    outs = [out for kind in ("outs", "metrics", "plots") for out in declared.get(kind, [])]
    return [Path(dep) for dep in declared.get("deps", [])], [
        Path(o if isinstance(o, str) else next(iter(o))) for o in outs
    ]


def _looked_up(values: Mapping[str, Any], name: str) -> Any:
    value: Any = values
    for part in name.split("."):
        value = value[part]
    return value


def md5(path: Path) -> str:
    """The hash that DVC gives `path`: of a folder, with the suffix `.dir`."""
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
        listing = [{"md5": md5(file), "relpath": file.relative_to(path).as_posix()} for file in inside]
        listing.sort(key=lambda entry: entry["relpath"])
        return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
