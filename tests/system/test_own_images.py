"""The commands of data/images/README.md, on a few small images."""

import numpy as np
import pytest
from PIL import Image
from repository import Clone

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("own images")]

SMALL = {"dataset: mnist": "dataset: digits", "epochs: 5": "epochs: 1", "threads: 2": "threads: 1"}
LABELS = ("cat", "dog")
N_IMAGES = 20  # of a class


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with images of two classes, in folders; those of a class look alike."""
    clone = Clone(tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("cache"), SMALL)
    clone.type("git config user.name test && git config user.email test@localhost")
    random = np.random.default_rng(0)
    for label in LABELS:
        folder = clone.path / "data/images" / label
        folder.mkdir()
        texture = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        for number in range(N_IMAGES):
            size = (80 + number, 100)
            texture.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return clone


def lines(*columns: str) -> str:
    """Return a table of the images, with these columns, the last of them for the splits."""
    rows = [",".join(columns)]
    for label in LABELS:
        for number in range(N_IMAGES):
            split = ("train", "train", "val", "test")[number % 4]
            rows.append(",".join([f"{label}/{number}.png", label, split][: len(columns)]))
    return "\n".join(rows) + "\n"


def test_folders_train(clone: Clone) -> None:
    assert "40 images of 2 classes" in clone.type("dvc exp run -S dataset=image_folder")
    broken = clone.path / "data/images/cat/broken.png"
    broken.write_bytes(b"broken")
    clone.type("dvc exp run -S dataset=image_folder", code=255)
    printed = clone.type("dvc exp run -S dataset=image_folder -S datasets.image_folder.on_bad=skip")
    assert "data/images/cat/broken.png" in printed
    broken.unlink()


def test_near_duplicates_are_listed(clone: Clone) -> None:
    printed = clone.type("dvc exp run -S dataset=image_folder -S near_duplicates=4")
    assert "look alike" in printed
    clone.type("git checkout --quiet params.yaml")


def test_tables_train(clone: Clone) -> None:
    images = clone.path / "data/images"
    (images / "labels.csv").write_text(lines("path", "label"))
    assert "40 images" in clone.type("dvc exp run -S dataset=image_csv")
    (images / "labels.csv").unlink()
    (images / "train.csv").write_text(lines("file", "class", "part"))
    table = "-S datasets.image_csv.table=train.csv -S datasets.image_csv.path=file "
    columns = "-S datasets.image_csv.label=class -S datasets.image_csv.split=part"
    clone.type(f"dvc exp run -S dataset=image_csv {table}{columns}")
    predictions = (clone.path / "reports/predictions.csv").read_text().splitlines()
    assert len(predictions) - 1 == 2 * N_IMAGES // 4
    (images / "train.csv").unlink()
    clone.type("git checkout --quiet params.yaml")
    (images / "metadata.csv").write_text(lines("file_name", "label"))
    clone.type(
        "dvc exp run -S dataset=image_csv -S datasets.image_csv.table=metadata.csv "
        "-S datasets.image_csv.path=file_name"
    )
    (images / "metadata.csv").unlink()
    clone.type("git checkout --quiet params.yaml")


def test_copies_see_tracked_images(clone: Clone) -> None:
    clone.type("git add data/images")
    clone.type('git commit -m "Images"')
    clone.type("dvc exp run --temp -S dataset=image_folder")
    clone.type("git rm -r -q --cached data/images")
    clone.type("dvc add data/images")
    clone.type("git add data")
    clone.type('git commit -m "Images, in DVC"')
    printed = clone.type("dvc exp run --temp -S dataset=image_folder")
    assert "Stage 'download' is cached" in printed  # the images are the same
