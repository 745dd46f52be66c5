"""Your own images: which files are read, how they are decoded, which errors are reported."""

import csv
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import psutil
import pytest
from images import GREEN, RED, WHITE, by_name, encoded, plain, put, read
from mlflow.entities import Run
from PIL import Image, ImageDraw, PngImagePlugin
from repository import ROOT, stage

from lab import paths
from lab.data import decoding
from lab.data.datasets import image_folder
from retrace.errors import DataError, ParamsError

SOURCES = (ROOT / "src", ROOT / "tests", ROOT / "tests/data")
Make = Callable[[], bytes]


def noisy(size: int = 64) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    )


@pytest.fixture
def images(folder: Path) -> Path:
    """data/images with a README and two classes of an image each."""
    put("README.md", b"how to")
    put("cat/a.png", encoded(plain(colour=RED)))
    put("dog/b.png", encoded(plain(colour=GREEN)))
    return paths.IMAGES


def faults() -> list[str]:
    """Return the lines of the error that reading data/images raises."""
    with pytest.raises(DataError) as raised:
        read()
    return [line.strip() for line in str(raised.value).splitlines()]


# --- which files are read


def test_class_is_folder_at_any_depth(images: Path) -> None:
    put("cat/2024/may/c.JPG", encoded(plain(), "JPEG"))
    put("dog/.hidden.png", b"no image")
    put(".thumbnails/x/y.png", b"no image")
    put("dog/notes.txt", b"left out")
    put("animation.GIF", b"left out")
    put("dog/LICENSE", b"left out")
    summary = image_folder.collect(paths.RAW)
    assert (
        summary == "data/images, 3 images of 2 classes; left out: 1 .gif, 1 .txt, 1 without suffix"
    )
    with zipfile.ZipFile(paths.RAW / "images.zip") as archive:
        assert archive.namelist() == ["cat/2024/may/c.JPG", "cat/a.png", "dog/b.png"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.read("dog/b.png") == (images / "dog" / "b.png").read_bytes()
    train, *others = image_folder.read(paths.RAW, resize=8, crop=8, on_bad="fail")
    assert (train.class_names, train.labels.tolist(), others) == (
        ("cat", "dog"),
        [0, 1, 0],
        [None, None, ()],
    )
    assert [train.name(index) for index in range(3)] == [
        "data/images/cat/2024/may/c.JPG",
        "data/images/dog/b.png",
        "data/images/cat/a.png",
    ]
    assert (train.inputs.shape, train.inputs.dtype, train.labels.dtype) == (
        (3, 3, 8, 8),
        np.uint8,
        np.int64,
    )


def test_archive_depends_on_images_only(images: Path) -> None:
    read()
    first = (paths.RAW / "images.zip").read_bytes()
    content = (images / "cat" / "a.png").read_bytes()
    (images / "cat" / "a.png").unlink()
    put("cat/z.png", content)
    (images / "cat" / "z.png").rename(images / "cat" / "a.png")
    os.utime(images / "dog" / "b.png", (0, 0))
    (images / "dog" / "b.png").chmod(0o600)
    put("dog/new notes.txt", b"left out")
    read()
    assert (paths.RAW / "images.zip").read_bytes() == first
    assert [path.name for path in paths.RAW.iterdir()] == ["images.zip"]


@pytest.mark.parametrize(
    ("present", "given"), [(["train", "val", "test"], [1, 1, 1]), (["train", "test"], [1, 0, 1])]
)
def test_train_val_test_folders_are_splits(
    folder: Path, present: list[str], given: list[int]
) -> None:
    for number, part in enumerate(present):
        for name in ("dog", "cat"):
            put(f"{part}/{name}/deep/x.png", encoded(plain(colour=(number, 0, name == "cat"))))
    parts = read()[:3]
    assert [0 if part is None else 1 for part in parts] == given
    for number, part in enumerate(part for part in parts if part):
        assert (part.class_names, part.labels.tolist()) == (("cat", "dog"), [0, 1])
        assert part.inputs[:, 0].max() == part.inputs[:, 0].min() == number
        assert part.inputs[:, 2].mean(axis=(1, 2)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["test/cat/a", "test/dog/a"], ["data/images/train: missing next to test"]),
        (
            ["train/cat/a", "train/dog/a", "val/cat/a", "val/fish/a"],
            ["data/images/train/fish: no images in it", "data/images/val/dog: no images in it"],
        ),
        (
            ["train/cat/a", "train/dog/a", "bird/a"],
            ["data/images/bird: an unexpected folder next to train"],
        ),
        (
            ["Train/cat/a", "Test/cat/a"],
            ["Test: should be called test", "Train: should be called train"],
        ),
        (["cat/a", "dog/a", "b"], ["data/images/b.png: not in a class folder"]),
        (
            ["train/cat/a", "train/dog/a", "train/b"],
            ["data/images/train/b.png: not in a class folder"],
        ),
        (["cat/a"], ["data/images: one class, cat; needs two or more"]),
    ],
)
def test_bad_layout_is_explained(folder: Path, files: list[str], expected: list[str]) -> None:
    for file in files:
        put(f"{file}.png", encoded(plain()))
    lines = faults()
    assert all(any(fault in line for line in lines) for fault in expected), lines


def test_class_without_images_is_named(images: Path) -> None:
    put("fish/a.gif", b"no image of ours")
    (images / "empty").mkdir()
    assert faults()[1:] == [
        "data/images/empty: no images in it",
        "data/images/fish: no images in it; left out: 1 .gif; convert images to PNG or JPEG",
    ]


@pytest.mark.parametrize("there", [True, False])
def test_no_images_refers_to_readme(folder: Path, there: bool) -> None:
    if there:
        put("README.md", b"how to")
    (line,) = faults()
    assert line.startswith("data/images: no images; data/images/README.md explains")


NAMES = [
    "two words",
    "Käse",
    "猫🐈",
    "e\u0301te\u0301",
    "a\nb",
    "back\\slash",
    "-dash",
    "100%",
    "$(x)",
    " lead",
    "c:d",
    "'\"",
]


def test_class_names_of_any_letters(folder: Path) -> None:
    for number, name in enumerate(NAMES):
        put(f"{name}/{name}.png", encoded(plain(colour=(number, 0, 0))))
    train = read().train
    assert train.class_names == tuple(sorted(NAMES))
    assert [NAMES[red] for red in train.inputs[:, 0, 0, 0]] == [
        train.class_names[label] for label in train.labels
    ]


# --- how an image is decoded


def alpha(mode: str, transparent: Any, opaque: Any) -> Image.Image:
    """Return an image that is transparent on the left and opaque on the right."""
    image = plain(mode, transparent, (20, 20))
    image.paste(opaque, (10, 0, 20, 20))
    return image


def see_through_palette() -> bytes:
    image = Image.new("P", (20, 20))
    image.putpalette([*GREEN, *RED])
    image.paste(1, (10, 0, 20, 20))
    return encoded(image, transparency=0)


def see_through_key(mode: str, key: Any, colour: Any) -> bytes:
    return encoded(alpha(mode, key, colour), transparency=key)


def sixteen(left: int, right: int, **settings: Any) -> bytes:
    pixels = np.full((20, 20), left, np.uint16)
    pixels[:, 10:] = right
    return encoded(Image.fromarray(pixels), **settings)


def animated(format: str) -> bytes:  # noqa: A002 - Pillow's name
    first, second = (plain(colour=colour, size=(20, 20)) for colour in (RED, GREEN))
    lossless = {"lossless": True} if format == "WEBP" else {}
    return encoded(first, format, save_all=True, append_images=[second], **lossless)


ODDITIES: dict[str, tuple[Make, tuple[int, ...], tuple[int, ...]]] = {  # left and right pixel
    "grey": (lambda: encoded(plain("L", 90)), (90,) * 3, (90,) * 3),
    "one bit": (lambda: encoded(alpha("1", 0, 1)), (0,) * 3, WHITE),
    "palette": (lambda: encoded(plain().convert("P", palette=Image.Palette.ADAPTIVE)), RED, RED),
    "palette with transparency": (see_through_palette, WHITE, RED),
    "grey with a transparent shade": (lambda: see_through_key("L", 7, 90), WHITE, (90,) * 3),
    "a transparent colour": (lambda: see_through_key("RGB", GREEN, RED), WHITE, RED),
    "RGBA": (lambda: encoded(alpha("RGBA", (*GREEN, 0), (*RED, 255))), WHITE, RED),
    "RGBA, half": (
        lambda: encoded(alpha("RGBA", (1, 1, 1, 128), (*RED, 255))),
        (127, 127, 127),
        RED,
    ),
    "LA": (lambda: encoded(alpha("LA", (0, 0), (90, 255))), WHITE, (90,) * 3),
    "WEBP with alpha": (
        lambda: encoded(alpha("RGBA", (*GREEN, 0), (*RED, 255)), "WEBP", lossless=True),
        WHITE,
        RED,
    ),
    "16 bits": (lambda: sixteen(0x0180, 0xC000), (1,) * 3, (0xC0,) * 3),
    "16 bits, the extremes": (lambda: sixteen(0, 0xFFFF), (0,) * 3, WHITE),
    "16 bits with a transparent shade": (
        lambda: sixteen(0x0180, 0xC000, transparency=0x0180),
        WHITE,
        (0xC0,) * 3,
    ),
    "BMP": (lambda: encoded(plain(), "BMP"), RED, RED),
    "WEBP": (lambda: encoded(plain(), "WEBP", lossless=True), RED, RED),
    "animated WEBP": (lambda: animated("WEBP"), RED, RED),
    "animated PNG": (lambda: animated("PNG"), RED, RED),
    "JPEG": (lambda: encoded(plain(), "JPEG"), RED, RED),
    "grey JPEG": (lambda: encoded(plain("L", 90), "JPEG"), (90,) * 3, (90,) * 3),
    "CMYK JPEG": (lambda: encoded(plain().convert("CMYK"), "JPEG"), RED, RED),
    "progressive JPEG": (lambda: encoded(plain(), "JPEG", progressive=True), RED, RED),
    "several pictures in a JPEG": (lambda: animated("MPO"), RED, RED),
    "a pixel": (lambda: encoded(plain(size=(1, 1))), RED, RED),
    "a strip": (lambda: encoded(plain(size=(1, 30_000))), RED, RED),
}


@pytest.mark.parametrize("name", ODDITIES)
def test_image_of_any_kind_becomes_rgb(images: Path, name: str) -> None:
    make, left, right = ODDITIES[name]
    put("cat/a.png", make())
    image = read(resize=16, crop=16).train.inputs[0]
    assert image.shape == (3, 16, 16)
    np.testing.assert_allclose(image[:, 8, 0], left, atol=3)
    np.testing.assert_allclose(image[:, 8, -1], right, atol=3)


CORNERS = ((0, 0), (0, -1), (-1, -1), (-1, 0))  # clockwise from the top left
UPRIGHT = {
    1: 0,
    2: 1,
    3: 2,
    4: 3,
    5: 0,
    6: 1,
    7: 2,
    8: 3,
}  # where the stored top left corner belongs, by EXIF


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_image_is_turned_upright(images: Path, format: str, orientation: int) -> None:  # noqa: A002
    image = plain(colour="black", size=(32, 32))
    ImageDraw.Draw(image).rectangle((0, 0, 15, 15), fill="white")
    exif = Image.Exif()
    exif[0x0112] = orientation
    put("cat/a.jpg", encoded(image, format, exif=exif))
    turned = read(resize=32, crop=32).train.inputs[0, 0]
    assert [turned[corner] > 128 for corner in CORNERS].index(True) == UPRIGHT[orientation]


def test_shorter_edge_is_resized_centre_kept(images: Path) -> None:
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8))
    put("cat/a.png", encoded(wide))
    put("dog/b.png", encoded(wide.transpose(Image.Transpose.TRANSPOSE)))
    small = wide.resize((40, 20), Image.Resampling.BILINEAR)
    expected = np.asarray(small)[2:18, 12:28].transpose(2, 0, 1)
    inputs = read(resize=20, crop=16).train.inputs
    np.testing.assert_array_equal(inputs[0], expected)
    # Pillow scales one side after the other and rounds in between: a turned image may be 1 off.
    np.testing.assert_allclose(inputs[1].astype(int), expected.transpose(0, 2, 1), atol=1)


def test_crop_larger_than_image_is_refused(images: Path) -> None:
    with pytest.raises(
        ParamsError, match="image_folder.crop is 65; should be at most resize, which is 64$"
    ):
        image_folder.read(paths.RAW, resize=64, crop=65, on_bad="fail")


@pytest.mark.parametrize("damage", [None, b"", b"PK\3\4 and no more"])
def test_damaged_archive_is_refused(images: Path, damage: bytes | None) -> None:
    image_folder.collect(paths.RAW)
    archive = paths.RAW / "images.zip"
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"IDAT", b"IDAS") if damage is None else damage)
    with pytest.raises(
        DataError, match=r"data/raw/images\.zip: .*; `dvc repro download` writes it"
    ):
        image_folder.read(paths.RAW, resize=8, crop=8, on_bad="skip")


# --- which errors are reported


def flipped() -> bytes:
    content = bytearray(encoded(noisy()))
    content[len(content) // 2] ^= 1
    return bytes(content)


def bomb(width: int, height: int) -> bytes:
    """Return a BMP's header with this size, and no pixels."""
    header = encoded(plain("L", 0, (1, 1)), "BMP")
    return header[:18] + width.to_bytes(4, "little") + height.to_bytes(4, "little") + header[26:]


BROKEN: dict[str, tuple[Make, str]] = {
    "empty.jpg": (lambda: b"", "empty"),
    "text.jpg": (lambda: b"This is no image.\n", "not a JPEG, PNG, WEBP, BMP, TIFF or AVIF image"),
    "gif.png": (lambda: encoded(plain(), "GIF"), "not a JPEG, PNG, WEBP, BMP, TIFF or AVIF image"),
    "half.jpg": (lambda: encoded(noisy(), "JPEG")[:1500], "image file is truncated"),
    "half.png": (lambda: encoded(noisy())[:3000], "runcated"),
    "half.webp": (lambda: encoded(noisy(), "WEBP")[:1000], ""),
    "half.bmp": (lambda: encoded(noisy(), "BMP")[:3000], "image file is truncated"),
    "flipped.png": (flipped, "broken PNG file"),
    "bomb.bmp": (lambda: bomb(8_000, 8_000), "more than 50,000,000 pixels"),
    "great bomb.bmp": (lambda: bomb(60_000, 60_000), "more than 50,000,000 pixels"),
    "144 megapixels.png": (
        lambda: encoded(plain("1", 0, (12_000, 12_000))),
        "more than 50,000,000 pixels",
    ),
}


def test_broken_images_are_listed_with_reasons(images: Path) -> None:
    for name, (make, _) in BROKEN.items():
        put(f"cat/{name}", make())
    put("dog/really a png.jpg", encoded(plain()))
    first, *lines = faults()
    assert first.startswith(
        f"data/images: {len(BROKEN)} unusable files or folders to fix or remove"
    )
    assert "-S datasets.image_folder.on_bad=skip" in first
    for line, name in zip(lines, sorted(BROKEN), strict=True):
        path, _, reason = line.partition(": ")
        assert path == f"data/images/cat/{name}"
        assert reason
        assert BROKEN[name][1] in reason


@pytest.mark.parametrize("name", BROKEN)
def test_one_broken_image_fails(images: Path, name: str) -> None:
    put(f"dog/{name}", BROKEN[name][0]())
    assert len(faults()) == 2


def test_broken_images_can_be_skipped(
    images: Path,
) -> None:
    put("cat/c.png", encoded(plain(colour=GREEN)))
    without = read()
    for name, (make, _) in BROKEN.items():
        put(f"cat/{name}", make())
    with_them = read(on_bad="skip")
    assert [skipped.file for skipped in with_them.skipped] == [
        f"data/images/cat/{name}" for name in sorted(BROKEN)
    ]
    for skipped in with_them.skipped:
        assert skipped.sha256 == hashlib.sha256(Path(skipped.file).read_bytes()).hexdigest()
        assert BROKEN[Path(skipped.file).name][1] in skipped.reason
    assert by_name(with_them.train) == by_name(without.train)


def test_class_with_all_skipped_is_named(images: Path) -> None:
    put("dog/b.png", b"")
    with pytest.raises(
        DataError, match="data/images: no image of class dog can be used for train$"
    ):
        read(on_bad="skip")


def test_dangling_link_is_never_skipped(images: Path) -> None:
    (images / "cat" / "dangling.png").symlink_to("nothing.png")
    with pytest.raises(DataError, match=r"dangling\.png: a broken symbolic link"):
        read(on_bad="skip")


@pytest.mark.parametrize(
    ("colour", "mode"), [(RED, "RGB"), (0xFFFF, "I;16"), ((1, 2, 3, 4), "RGBA")]
)
def test_memory_is_bounded_by_threads(images: Path, colour: Any, mode: str) -> None:
    """Two threads decode nine images of 24 megapixels in the memory of two."""
    large = encoded(Image.new(mode, (6_000, 4_000), colour), compress_level=1)
    script = (
        "from lab.data import image_archive; from test_image_folder import read; "
        "image_archive.MAX_THREADS = 2; read(); "
    )
    script += "print(open('/proc/self/status').read())"

    def peak(n: int) -> int:
        for number in range(n):
            put(f"cat/large {number}.png", large)
        env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, SOURCES))}
        ended = subprocess.run(
            [sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True
        )
        # Not rusage's figure, which a child inherits.
        return int(ended.stdout.split("VmHWM:")[1].split()[0]) * 1024

    none, one = peak(0), peak(1)
    slack = 60_000_000  # the allocator's, a quarter of an image
    assert peak(9) - none < 2 * (one - none) + len(large) + slack


def test_images_too_large_for_memory(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        put(f"cat/more {number}.png", encoded(Image.new("RGB", (32, 32), (40 * number, 9, 9))))
    samples = {}
    for available in (1 << 40, 10_000):
        monkeypatch.setattr(
            psutil,
            "virtual_memory",
            lambda available=available: SimpleNamespace(available=available),
        )
        read_ = read(resize=64, crop=64).train
        assert isinstance(read_.inputs, np.memmap) == (available == 10_000)
        samples[available] = read_.take(np.array([3, 1]))
    np.testing.assert_array_equal(samples[1 << 40].inputs, samples[10_000].inputs)
    assert list(samples[1 << 40].names) == list(samples[10_000].names)


def test_memory_error_is_not_skipped(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding.ImageOps, "exif_transpose", raising)
    with pytest.raises(MemoryError):
        read(on_bad="skip")


def raising(*_: object, **__: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("damage", [b"\x01\x00", b"\x20\x00", b"\x40\x00"])
def test_archive_with_odd_flags_is_refused(images: Path, damage: bytes) -> None:
    image_folder.collect(paths.RAW)
    archive = paths.RAW / "images.zip"
    content = bytearray(archive.read_bytes())
    for signature, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        at = content.index(signature) + place
        content[at : at + 2] = damage
    archive.write_bytes(content)
    with pytest.raises(
        DataError, match=r"data/raw/images\.zip: .*; `dvc repro download` writes it"
    ):
        image_folder.read(paths.RAW, resize=8, crop=8, on_bad="skip")


def test_compressed_member_is_refused(images: Path) -> None:
    image_folder.collect(paths.RAW)
    with zipfile.ZipFile(paths.RAW / "images.zip", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/bomb.bmp", bytes(1 << 26))
    with pytest.raises(DataError, match=r"cat/bomb\.bmp: .*; `dvc repro download` writes it"):
        image_folder.read(paths.RAW, resize=8, crop=8, on_bad="skip")


def copy_to_splits(images: Path) -> None:
    """Replace the folders of the classes by a copy in each of `train` and `test`."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (images / split).mkdir(exist_ok=True)
            shutil.copytree(images / name, images / split / name)
    for name in ("cat", "dog"):
        shutil.rmtree(images / name)


def logged_rows(client: mlflow.MlflowClient, run: Run, name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file among the run's artifacts."""
    artifact = client.download_artifacts(run.info.run_id, name, str(Path.cwd()))
    with Path(artifact).open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_logs_skipped_and_duplicates(
    images: Path, folder: Path, empty_store: Path, beside: None, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(empty_store, folder / "mlflow.db")
    for number in range(20):
        put(
            f"{'cat' if number % 2 else 'dog'}/{number}.png",
            encoded(plain(colour=(number, number, 9))),
        )
    put("cat/broken.png", b"")
    put("cat/under two names.bmp", encoded(plain(colour=GREEN), "BMP"))
    copy_to_splits(images)
    (images / "test" / "dog" / "b.png").unlink()
    changed = paths.PARAMS.read_text().replace("\ndataset: mnist", "\ndataset: image_folder")
    paths.PARAMS.write_text(changed.replace("on_bad: fail", "on_bad: skip"))
    image_folder.collect(paths.RAW)
    stage("preprocess").main()

    warnings = capsys.readouterr().err
    assert "warning: 2 skipped, such as 'data/images/train/cat/broken.png' (empty)" in warnings
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("image_folder")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`retrace.stage` = 'preprocess'")
    assert [row["file"] for row in logged_rows(client, run, "skipped.csv")] == [
        f"data/images/{split}/cat/broken.png" for split in ("train", "test")
    ]
    shared = logged_rows(client, run, "duplicates.csv")
    assert (run.data.metrics["skipped"], run.data.metrics["duplicates"]) == (2, len(shared))
    assert {row["sample"] for row in shared if row["split"] == "test"} == {
        str(file) for file in (images / "test").rglob("*.*") if file.name != "broken.png"
    }
    (crossed,) = [
        row for row in shared if row["sample"].endswith("two names.bmp") and row["split"] == "test"
    ]
    assert crossed["label"] == "cat"


def test_message_lists_twenty_faults(images: Path) -> None:
    for number in range(25):
        put(f"cat/{number:02}.png", b"")
    lines = faults()
    assert (len(lines), lines[-1]) == (22, "and 5 more")
    assert lines[0].startswith("data/images: 25 unusable files or folders to fix or remove")


def test_fault_is_one_line_for_any_name(images: Path) -> None:
    put("cat/two\nlines\x1b[31m ä.png", b"")
    assert faults()[1] == r"data/images/cat/two\nlines\x1b[31m ä.png: empty"


def test_links_outside_are_refused(images: Path, folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    secret = folder / "elsewhere" / "secret.png"
    secret.write_bytes(encoded(plain()))
    (images / "cat" / "a link.png").symlink_to(secret)
    (images / "cat" / "b dangling.png").symlink_to("nothing.png")
    (images / "cat" / "c circle.png").symlink_to("c circle.png")
    (images / "cat" / "d folder.png").symlink_to(folder / "elsewhere")
    (images / "fish").symlink_to("cat")
    os.mkfifo(images / "dog" / "pipe.png")
    assert faults()[1:] == [
        f"data/images/cat/a link.png: a symbolic link to a file outside of data/images, {secret}",
        "data/images/cat/b dangling.png: a broken symbolic link",
        "data/images/cat/c circle.png: a broken symbolic link",
        "data/images/cat/d folder.png: a symbolic link to a folder; put the folder itself here",
        "data/images/dog/pipe.png: not a file",
        "data/images/fish: a symbolic link to a folder; put the folder itself here",
    ]


def test_links_inside_are_followed(images: Path, folder: Path) -> None:
    cached = folder / ".dvc/cache/files/md5/11/1b9feef51c2c8bd4619f93a7aacfef"
    cached.parent.mkdir(parents=True)
    (images / "dog" / "b.png").rename(cached)
    (images / "dog" / "b.png").symlink_to(cached)
    (images / "dog" / "c.png").symlink_to("../cat/a.png")
    assert read().train.inputs[:, :, 0, 0].tolist() == [list(RED), list(GREEN), list(RED)]


def test_file_too_large_is_not_read(images: Path) -> None:
    with (images / "cat" / "huge.bmp").open("wb") as file:
        file.truncate(decoding.MAX_BYTES + 1)
    assert faults()[1:] == ["data/images/cat/huge.bmp: 268,435,457 bytes, more than 268,435,456"]


def test_name_not_utf_8_is_refused(images: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        put(f"cat/{name}", encoded(plain()))
    except OSError:  # a file system that refuses it has no such trouble
        return
    assert faults()[1:] == [r"data/images/cat/caf\udce9.png: its name is not UTF-8"]


def test_odd_metadata_is_ignored(images: Path) -> None:
    put("cat/a.jpg", encoded(plain(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"))
    put("cat/b.jpg", encoded(plain(), "JPEG", exif=b"Exif\0\0nonsense"))
    assert len(read().train) == 4


def text_chunk() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw", "x" * (1 << 22), zip=True)
    return encoded(plain(), pnginfo=info)


@pytest.mark.parametrize(
    "make", [text_chunk, lambda: encoded(plain(), icc_profile=bytes(1 << 22))], ids=["text", "ICC"]
)
def test_large_metadata_of_png_is_read(images: Path, make: Make) -> None:
    put("cat/b.png", make())
    np.testing.assert_array_equal(read().train.inputs[2], read().train.inputs[0])
