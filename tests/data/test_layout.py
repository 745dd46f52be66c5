"""Folders of images: which are splits, which are classes, and which are refused."""

import os
import subprocess
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from images import by_name, encoded, plain, put, read
from PIL import Image

from lab import paths
from lab.data.datasets import image_folder
from lab.data.split_names import role
from retrace.errors import DataError

NFC, NFD = (unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD"))


def make(*files: str) -> None:
    for file in files:
        put(file, encoded(plain()))


def refused() -> dict[str, str]:
    """Return the problem of each folder and file, by its path in data/images."""
    with pytest.raises(DataError) as raised:
        image_folder.collect(paths.RAW)
    _, *lines = str(raised.value).splitlines()
    parts = (line.strip().split(": ", 1) for line in lines)
    return {os.path.relpath(path, paths.IMAGES): problem for path, problem in parts}


def typed(problem: str) -> None:
    """Run the command that a problem ends with."""
    subprocess.run(["/bin/sh", "-c", problem.split("type: ")[1]], check=True)


TRAIN = "train Train TRAIN training Training training_set trainingSet train-images Train_Images "
TRAIN += "seg_train train_data TrainData train2017 Entraînement Trainingsdaten 训练集 обучение 学習"
VAL = "val Val valid_images Validation validation_set dev_set val2017 Validación 验证 検証データ"
TEST = "test TESTING test_set seg_test Test_Data testData test1 Testdaten prueba 测试集 テスト"
CLASSES = "cat steam_train driving_test valid invalid dev freight-train contest evaluated trainer"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_split_names_of_downloads(form: Literal["NFC", "NFD"]) -> None:
    for split, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        for name in names.split():
            own = role(unicodedata.normalize(form, name))
            assert own, name
            assert (own.split, own.is_certain) == (split, True), name
    for name in CLASSES.split():
        own = role(name)
        assert own is None or not own.is_certain, name


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("dogs_train", "dogs_test"),
        ("asl_train/asl_train", "asl_test/asl_test"),
        ("train/train", "test"),
        ("archive/Train", "archive/Test"),
        ("Train", "valid"),
        ("Jeu d'entraînement", "Jeu de test"),
    ],
)
def test_printed_command_mends_splits(folder: Path, train: str, test: str) -> None:
    make(*(f"{split}/{name}/a.png" for split in (train, test) for name in ("cat", "dog")))
    for _ in range(5):
        try:
            image_folder.collect(paths.RAW)
            break
        except DataError:
            typed(next(iter(refused().values())))
    splits = image_folder.read(paths.RAW, resize=8, crop=8, on_bad="fail")
    assert splits.train.class_names == ("cat", "dog")
    assert splits.validation if test == "valid" else splits.test


def test_lone_class_in_splits_is_refused(folder: Path) -> None:
    make("Training/cat/a.png", "Testing/cat/a.png")
    assert list(refused()) == ["Testing", "Training"]


def test_flat_splits_are_no_classes(folder: Path) -> None:
    make("train_images/a.png", "test_images/a.png")
    assert [line.split(";")[0] for line in refused().values()] == [
        "should be called test",
        "should be called train",
    ]


def test_two_folders_of_a_split(folder: Path) -> None:
    make(*(f"{split}/{name}/a.png" for split in ("train", "Training") for name in ("cat", "dog")))
    assert refused() == {
        "Training": "is the split train, as train is; put all of its images into data/images/train"
    }


def test_same_folders_inside_are_no_classes(folder: Path) -> None:
    make(*(f"{split}/{name}/a.png" for split in ("site A", "site B") for name in ("Cat", "dog")))
    make("site B/bird/a.png")
    wrong = refused()
    assert list(wrong) == ["site B"]
    assert "train, val and test" in wrong["site B"]


def test_splits_in_each_class_are_refused(folder: Path) -> None:
    make(*(f"{name}/{split}/a.png" for name in ("cat", "dog") for split in ("train", "test")))
    wrong = refused()
    assert list(wrong) == ["cat", "dog"]
    assert wrong["cat"].endswith("data/images/cat/test should be data/images/SPLIT/cat")


@pytest.mark.parametrize(
    "names", [("valid", "invalid"), ("steam_train", "driving_test"), ("cat/2024", "dog/2024")]
)
def test_plausible_classes_are_kept(folder: Path, names: tuple[str, str]) -> None:
    make(*(f"{name}/a.png" for name in names))
    assert read().train.class_names == tuple(sorted(name.split("/")[0] for name in names))


@pytest.mark.parametrize("train", ["train", "."])
def test_split_without_labels_is_one_line(folder: Path, train: str) -> None:
    make(f"{train}/cat/a.png", f"{train}/dog/a.png", *(f"test/{n}.png" for n in range(30)))
    wrong = refused()
    assert list(wrong) == ["test"]
    assert wrong["test"].startswith("no class folders in it; ")


def test_one_folder_around_classes(folder: Path) -> None:
    make("animal/cat/a.png", "animal/dog/a.png")
    wrong = refused()
    typed(wrong["."])
    assert read().train.class_names == ("cat", "dog")


def test_unicode_forms_are_one_class(folder: Path) -> None:
    make(f"train/{NFC}/a.png", f"train/{NFD}/b.png", f"test/{NFD}/c.png")
    make("train/dog/a.png", "test/dog/a.png")
    splits = read()
    assert splits.test
    assert splits.train.class_names == splits.test.class_names == (NFD, "dog")
    assert [label for _, label in by_name(splits.train).values()].count(NFD) == 2
    assert (paths.IMAGES / "train" / NFC).is_dir()
    assert Path(splits.test.name(0)).exists()


def test_folders_of_tools_are_no_classes(folder: Path) -> None:
    make("cat/a.png", "dog/a.png", "__MACOSX/cat/._a.png", ".ipynb_checkpoints/a.png")
    make("@eaDir/a.png", "cat/.ipynb_checkpoints/a.png")
    for name in (".DS_Store", "cat/Thumbs.db", "dog/desktop.ini"):
        put(name, b"of a tool")
    assert image_folder.collect(paths.RAW) == "data/images, 2 images of 2 classes"


def test_class_of_heic_names_the_package(folder: Path) -> None:
    make("cat/a.png", "dog/a.png")
    put("bird/a.HEIC", b"ftypheic")
    put("fish/all.zip", b"PK")
    wrong = refused()
    assert "pillow-heif" in wrong["bird"]
    assert "left out: 1 .heic" in wrong["bird"]
    assert "unpack" in wrong["fish"]


def test_left_out_images_are_warned_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("cat/a.png", "dog/a.png")
    put("cat/b.heic", b"ftypheic")
    put("cat/notes.txt", b"text")
    assert image_folder.collect(paths.RAW).endswith("; left out: 1 .heic, 1 .txt")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: data/images: left out: 1 .heic, 1 .txt; convert HEIC to JPEG")


@pytest.mark.parametrize(
    ("suffix", "format_"), [("TIF", "TIFF"), ("tiff", "TIFF"), ("avif", "AVIF"), ("jfif", "JPEG")]
)
def test_formats_of_cameras_are_read(folder: Path, suffix: str, format_: str) -> None:
    make("cat/a.png")
    put(f"dog/a.{suffix}", encoded(plain(), format_))
    inputs = read().train.inputs.astype(int)
    assert abs(inputs[0] - inputs[1]).max() <= 3


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bits_are_refused(folder: Path, mode: str) -> None:
    make("cat/a.png", "dog/a.png")
    put("dog/b.tif", encoded(Image.new(mode, (8, 8), 1), "TIFF"))
    with pytest.raises(DataError, match=r"dog/b\.tif: 32 bits per channel; convert"):
        read()
