"""Your own images with a table of labels: which rows are read, which are refused."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from images import GREEN, PACKS, RED, by_name, encoded, plain, put
from pyarrow import Table, parquet

from lab import paths
from lab.data import label_tables
from lab.data.datasets import image_csv
from lab.data.samples import Splits
from retrace.errors import DataError

SETTINGS: dict[str, Any] = {"table": "labels.csv", "path": "path", "label": "label", "split": ""}
CAT, DOG = (encoded(plain(colour=colour)) for colour in (RED, GREEN))


def read_csv(**changed: Any) -> Splits:
    image_csv.collect(paths.RAW)
    settings = {"resize": 8, "crop": 8, "on_bad": "fail"} | SETTINGS | changed
    return image_csv.read(paths.RAW, **settings)


def refused(**changed: Any) -> list[str]:
    """Return the lines of the error, without the one that counts them."""
    with pytest.raises(DataError) as raised:
        read_csv(**changed)
    lines = [line.strip() for line in str(raised.value).splitlines()]
    return lines[1:] if len(lines) > 1 else lines


@pytest.fixture
def images(folder: Path) -> Path:
    """data/images with a cat and a dog, and two more of them in a folder."""
    for name, content in (("cat.png", CAT), ("dog.png", DOG), ("sub/c", CAT), ("sub/d.png", DOG)):
        put(name, content)
    return paths.IMAGES


ROWS = [("cat.png", "cat"), ("dog.png", "dog"), ("sub/c", "cat"), ("./sub//d.png", "dog")]


def table(rows: Sequence[Sequence[str]], *columns: str) -> bytes:
    lines = [columns or ("path", "label"), *rows]
    return "".join(f"{','.join(line)}\n" for line in lines).encode()


def columns(rows: Sequence[Mapping[str, object]], **settings: Any) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(Table.from_pylist(list(rows)), stream, **settings)
    return stream.getvalue()


AS_OBJECTS = [{"id": 1, "path": path, "label": label} for path, label in ROWS]
FORMS = {
    "labels.csv": table(ROWS),
    "semicolons.csv": table(ROWS).replace(b",", b";"),
    "spaces.csv": "\ufeff".encode() + table(ROWS).replace(b",", b", ").replace(b"\n", b"\r\n"),
    "labels.TSV": table(
        [(f"1\t{path}", label) for path, label in ROWS], "id\tpath", "label"
    ).replace(b",", b"\t"),
    "quoted.csv": table([(f'"{path}"', f'"{label}"') for path, label in ROWS]) + b"\n",
    "windows.csv": table([(path.replace("/", "\\"), label) for path, label in ROWS]),
    "labels.jsonl": "\n".join(map(json.dumps, AS_OBJECTS)).encode(),
    "labels.parquet": columns(AS_OBJECTS),
}


@pytest.mark.parametrize("name", FORMS)
def test_table_of_any_form(images: Path, name: str) -> None:
    put(name, FORMS[name])
    train, *others = read_csv(table=name)
    assert train.class_names == ("cat", "dog")
    labels = {file: label for file, (_, label) in by_name(train).items()}
    assert labels == {
        "data/images/cat.png": "cat",
        "data/images/dog.png": "dog",
        "data/images/sub/c": "cat",
        "data/images/sub/d.png": "dog",
    }
    assert others == [None, None, ()]


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "labels.parquet"])
def test_integers_are_classes_by_value(images: Path, name: str) -> None:
    rows = [{"path": path, "label": 10 if label == "cat" else 9} for path, label in ROWS]
    forms = {
        "labels.csv": table([(str(row["path"]), str(row["label"])) for row in rows]),
        "labels.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "labels.parquet": columns(rows),
    }
    put(name, forms[name])
    assert read_csv(table=name).train.class_names == ("9", "10")


def test_unlisted_images_are_left_out(images: Path) -> None:
    put("labels.csv", table([*ROWS[:2], ROWS[0]]))
    put("notes.txt", b"no image")
    assert image_csv.collect(paths.RAW) == "data/images, 4 images, 1 table"
    assert len(read_csv().train) == 2


def test_split_column_is_used(images: Path) -> None:
    values = ["train", " Train ", "validation", "val"]
    rows = [(*row, value) for row, value in zip(ROWS, values, strict=True)]
    put("labels.csv", table(rows, "path", "label", "part"))
    splits = read_csv(split="part")
    assert splits.validation
    assert splits.test is None
    assert sorted(by_name(splits.validation)) == ["data/images/sub/c", "data/images/sub/d.png"]


def test_unused_split_column_is_warned_of(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put("labels.csv", table([(*row, "train") for row in ROWS], "path", "label", "split"))
    read_csv()
    assert "-S datasets.image_csv.split=split" in capsys.readouterr().err
    read_csv(split="split")
    assert capsys.readouterr().err == ""


def hugging_face(folders: Sequence[str]) -> None:
    for split in folders:
        for name, content in (("c.png", CAT), ("d.png", DOG)):
            put(f"{split}/{name}", content)


HF = {"table": "metadata.csv", "path": "file_name"}


@pytest.mark.parametrize("name", ["validation", "val"])
def test_hugging_face_folders(folder: Path, name: str) -> None:
    hugging_face(["train", name, "test"])
    for split in ("train", name, "test"):
        put(f"{split}/metadata.csv", table([("c.png", "0"), ("d.png", "1")], "file_name", "label"))
    for split, samples in zip(("train", name, "test"), read_csv(**HF)[:3], strict=True):
        assert samples is not None
        assert sorted(by_name(samples)) == [f"data/images/{split}/{file}.png" for file in "cd"]


def test_hugging_face_metadata_above_splits(folder: Path) -> None:
    hugging_face(["train", "test"])
    rows = [(f"{split}/{file}.png", file) for split in ("train", "test") for file in "cd"]
    put("metadata.csv", table(rows, "file_name", "label"))
    splits = read_csv(**HF)
    assert splits.test
    assert len(splits.test) == 2
    put("e.png", CAT)
    put("metadata.csv", table([*rows, ("e.png", "c")], "file_name", "label"))
    (line,) = refused(**HF)
    assert "row 6" in line
    assert "in no folder train" in line


@pytest.mark.parametrize("name", ["photos.zip", "photos.tgz"])
@pytest.mark.parametrize("inside", [True, False])
def test_images_in_archive(folder: Path, name: str, inside: bool) -> None:
    contents = {"photos/c.png": CAT, "photos/d.png": DOG}
    labels = table([("photos/c.png", "cat"), ("photos/d.png", "dog")])
    put(name, PACKS[name](contents | ({"labels.csv": labels} if inside else {})))
    if not inside:
        put("labels.csv", labels)
    assert sorted(by_name(read_csv().train)) == [f"data/images/{file}" for file in contents]


WRONG = {
    "no label": (["cat.png", " "], "row 4: label is empty"),
    "no path": (["", "cat"], "row 4: path is empty"),
    "missing": (["gone.png", "cat"], "row 4: path is 'gone.png'; no such image"),
    "left out": (["notes.txt", "cat"], "row 4: path is 'notes.txt'; no such image"),
    "itself": (["labels.csv", "cat"], "row 4: path is 'labels.csv'"),
    "outside": (["../../cat.png", "cat"], "row 4: path is '../../cat.png'; should be a path from"),
    "absolute": (["/etc/passwd", "cat"], "row 4: path is '/etc/passwd'; should be a path from"),
    "from the repository": (["data/images/cat.png", "cat"], "without data/images/"),
    "other label": (["cat.png", "dog"], "row 4: 'cat.png' has label 'dog', but 'cat' in"),
    "cells": (["cat.png", "cat", "3"], "row 4: 3 cells, more than the 2 columns"),
    "quote": (['"cat".png', "cat"], "row 4: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_row_is_refused(images: Path, name: str) -> None:
    row, reason = WRONG[name]
    put("notes.txt", b"")
    put("labels.csv", table([*ROWS[:2], row]))
    (line,) = refused()
    assert line.startswith("data/images/labels.csv: row 4: ")
    assert reason in line


def test_split_value_is_refused(images: Path) -> None:
    values = ("train", "train", "fold 3", "")
    rows = [(*row, value) for row, value in zip(ROWS, values, strict=True)]
    put("labels.csv", table(rows, "path", "label", "split"))
    first, second = refused(split="split")
    assert "row 4: split is 'fold 3'; should be train, val (or validation) or test" in first
    assert "row 5: split is ''" in second


def test_many_rows_are_listed_shortly(images: Path) -> None:
    put("labels.csv", table([(f"{n}\x1b.png", "cat") for n in range(30)]))
    lines = refused()
    assert lines[-1] == "and 10 more"
    assert "\\x1b" in lines[0]


def test_column_is_named(images: Path) -> None:
    put("labels.csv", table(ROWS, "image", "class"))
    assert refused() == [
        "data/images/labels.csv: has no column 'path'; its columns are image, class"
    ]
    assert len(read_csv(path="image", label="class").train) == 4
    (line,) = refused(path="image", label="class", split="part")
    assert "no column 'part'" in line


def test_table_is_named(images: Path) -> None:
    (line,) = refused()
    assert "no table" in line
    put("sub/other.csv", table(ROWS))
    (line,) = refused()
    assert "sub/other.csv: choose one with -S datasets.image_csv.table=NAME" in line


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "labels.parquet"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"PAR1 and no more", b"[1]\n", b"{"])
def test_damaged_table_is_one_line(images: Path, name: str, content: bytes) -> None:
    put(name, content)
    (line,) = refused(table=name)
    assert line.startswith("data/images")


def test_broken_json_line_is_named(images: Path) -> None:
    put("labels.jsonl", b'{"path": "cat.png", "label": "cat"}\n{"path": 1 2}\n')
    (line,) = refused(table="labels.jsonl")
    assert "row 2 is not JSON: " in line


def test_parquet_is_bounded(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("labels.parquet", columns(AS_OBJECTS * 100))
    monkeypatch.setattr(label_tables, "MAX_ROWS", 399)
    assert "more than 399 rows" in refused(table="labels.parquet")[0]
    monkeypatch.setattr(label_tables, "MAX_ROWS", 400)
    monkeypatch.setattr(label_tables, "MAX_PARQUET_BYTES", 100)
    assert "more than 100 bytes" in refused(table="labels.parquet")[0]


@pytest.mark.parametrize("value", [1.5, [1], {"a": 1}])
def test_label_of_odd_type_is_refused(images: Path, value: object) -> None:
    put("labels.jsonl", json.dumps({"path": "cat.png", "label": value}).encode())
    (line,) = refused(table="labels.jsonl")
    assert "row 1: label is " in line
    assert "should be text or an integer" in line


def test_broken_image_is_skipped(images: Path) -> None:
    put("bad.png", b"no image")
    put("labels.csv", table([*ROWS, ("bad.png", "cat")]))
    (line,) = refused()
    assert line.startswith("data/images/bad.png: not a JPEG")
    assert [skipped.file for skipped in read_csv(on_bad="skip").skipped] == ["data/images/bad.png"]
