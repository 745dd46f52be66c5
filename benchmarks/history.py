"""Measure `retrace sync --all-commits`: a history of 1,000 commits that retrace has not seen.

The repository has three stages. Each commit has other parameters, so that two stages ran, and each
tenth other code of the first stage, so that all did.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import stores
import table
import yaml
from clones import Repository
from table import Figure

from retrace import errors

N_COMMITS = 1_000
TARGET_S = 60.0
BEGAN = 1_700_000_000  # seconds since 1970
CODE_EVERY = 10  # commits

Files = dict[str, str]
SYNC = ("python", "-c", "from retrace.cli.main import main; main()", "sync", "--all-commits")

DVC_YAML = """
stages:
  prepare:
    cmd: python prepare.py
    deps: [prepare.py]
    outs: [data.csv]
  train:
    cmd: python train.py
    deps: [train.py, data.csv]
    params: [lr, net.width]
    outs: [model.bin]
  evaluate:
    cmd: python evaluate.py
    deps: [evaluate.py, model.bin, data.csv]
    metrics: [metrics.json: {cache: false}]
"""


def commit_files(number: int) -> Files:
    """Return the files of a commit, with the dvc.lock that DVC would have written."""
    scores = {f"{part}_{name}": 1 / (number + 2) for part in ("val", "test") for name in "ab"}
    files = {
        "dvc.yaml": DVC_YAML,
        "params.yaml": f"lr: {(number + 1) / 10_000}\nnet: {{width: 8}}\n",
        "prepare.py": f"VERSION = {number // CODE_EVERY}\n",
        "train.py": "TRAIN = 1\n",
        "evaluate.py": "EVALUATE = 1\n",
        "metrics.json": json.dumps(scores),
    }
    contents = files | {
        "data.csv": f"data {number // CODE_EVERY}",
        "model.bin": f"model {number}",
    }
    return files | {"dvc.lock": _lock(contents)}


def _lock(contents: Files) -> str:
    declared = yaml.safe_load(DVC_YAML)["stages"]
    values = yaml.safe_load(contents["params.yaml"])
    stages = {
        name: {
            "cmd": stage["cmd"],
            "deps": [_entry(path, contents[path]) for path in stage["deps"]],
            "outs": [
                _entry(path, contents[path])
                for path in (
                    *stage.get("outs", ()),
                    *(p for m in stage.get("metrics", ()) for p in m),
                )
            ],
        }
        for name, stage in declared.items()
    }
    stages["train"]["params"] = {
        "params.yaml": {"lr": values["lr"], "net.width": values["net"]["width"]}
    }
    return yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False)


def _entry(path: str, text: str) -> dict[str, str | int]:
    md5 = hashlib.md5(text.encode()).hexdigest()
    return {"path": path, "hash": "md5", "md5": md5, "size": len(text)}


def create(path: Path, commits: Iterable[Files]) -> Repository:
    """Create a repository of git and DVC with these commits on its main branch."""
    repository = Repository(path)
    stream = b"".join(_imported(commits))
    subprocess.run(["git", "fast-import", "--quiet"], cwd=path, input=stream, check=True)
    repository.run("git", "checkout", "--quiet", "main")
    (path / ".dvc").mkdir()
    (path / ".dvc/config").touch()
    return repository


def _imported(commits: Iterable[Files]) -> Iterator[bytes]:
    """Yield the commands of `git fast-import`; only files that differ are written."""
    before: Files = {}
    for number, files in enumerate(commits):
        message = f"Change number {number}".encode()
        who = f"committer Ann <ann@localhost> {BEGAN + 60 * number} +0000\n".encode()
        yield b"commit refs/heads/main\n" + who + b"data %d\n%s\n" % (len(message), message)
        for name in files.keys() - before.keys() | {
            name for name, text in files.items() if before.get(name) != text
        }:
            content = files[name].encode()
            yield b"M 100644 inline %s\ndata %d\n%s\n" % (name.encode(), len(content), content)
        before = files


def figures(folder: Path, n: int) -> Iterator[Figure]:
    """Time the first and the second `retrace sync` of a history, `n` times."""
    for number in range(n):
        path = folder / f"history-{number}"
        repository = create(path, map(commit_files, range(N_COMMITS)))
        first = repository.seconds(*SYNC)
        before = stores.rows(path / "mlflow.db")
        yield Figure(f"`retrace sync` of {N_COMMITS:,} commits", first, "s", 1, TARGET_S)
        yield Figure("runs that it made", stores.runs(path / "mlflow.db"), "rows", 1)
        yield Figure("a second one", repository.seconds(*SYNC), "s", 1, TARGET_S)
        n_changed = stores.changed(before, stores.rows(path / "mlflow.db"))
        yield Figure("rows that it changed", n_changed, "rows", 1, 0)


if __name__ == "__main__":
    errors.run(lambda: table.measure(__doc__ or "", {"history": (figures, 1)}))
