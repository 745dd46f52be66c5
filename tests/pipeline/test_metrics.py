"""The direction of a metric by its name, and metrics files."""

import math
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import PARSERS
from hypothesis import given
from hypothesis import strategies as st

from retrace.pipeline import metrics

NESTED = st.recursive(
    st.floats() | st.integers() | st.text() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=3), inner),
)


@pytest.mark.parametrize(
    "name",
    [
        "val_loss",
        "loss",
        "eval/loss",
        "mlogloss",
        "test_calibration_error",
        "validation-error",
        "train_s",
        "rmse",
    ],
)
def test_names_to_minimize(name: str) -> None:
    assert metrics.direction(name) == "minimize"


@pytest.mark.parametrize(
    "name",
    [
        "test_accuracy",
        "f1_score",
        "images_per_s",
        "roc_auc",
        "neg_mean_squared_error",
        "classes",
        "gloss",
    ],
)
def test_names_to_maximize(name: str) -> None:
    assert metrics.direction(name) == "maximize"


def test_metrics_file_is_flattened_to_numbers() -> None:
    content = b'{"test": {"loss": 0.5, "note": "x"}, "n": 3}'
    assert metrics.parse_metrics(content) == {"test.loss": 0.5, "n": 3}


def test_metrics_file_without_a_table_has_none() -> None:
    assert metrics.parse_metrics(b"[1]") == {}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_metrics_file_that_is_no_json(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        metrics.parse_metrics(content)


def test_bool_is_no_number() -> None:
    assert metrics.parse_metrics('{"a": true, "b": 1}') == {"b": 1}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, text: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return Path(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.json", '{"a": {"b": 1.5, "c": [1]}, "s": "x", "t": true, "n": null}'),
        ("m.yaml", "a:\n  b: 1.5\n  c: [1]\ns: x\nt: true\nn:\n"),
        ("m.toml", 's = "x"\nt = true\n[a]\nb = 1.5\nc = [1]\n'),
        ("METRICS", "{a: {b: 1.5}, s: x, t: true}"),
    ],
)
@pytest.mark.usefixtures("here")
def test_formats_of_dvc(name: str, text: str) -> None:
    contents = metrics.read(write(name, text))
    assert contents.numbers == {"a.b": 1.5}
    assert contents.texts == {"s": "x", "t": "true"}


@pytest.mark.parametrize("name", ["m.json", "m.yaml", "m.toml", "m.metric"])
@pytest.mark.usefixtures("here")
def test_numbers_are_those_of_dvc(name: str) -> None:
    text = "a = 0.1" if name == "m.toml" else '{"a": 0.1, "b": {"c": 1e-3, "d": -2}}'
    dvc: dict[str, Any] = PARSERS[Path(name).suffix](text, name)
    expected = {key: value for key, value in dvc.items() if not isinstance(value, dict)}
    expected |= {f"b.{key}": value for key, value in dvc.get("b", {}).items()}
    assert metrics.read(write(name, text)).numbers == expected


@pytest.mark.parametrize(
    ("name", "text", "numbers", "texts"),
    [
        ("m.csv", "acc,loss,note\n0.5,1,x\n", {"acc": 0.5, "loss": 1.0}, {"note": "x"}),
        ("m.tsv", "acc\tloss\n0.5\t1\n", {"acc": 0.5, "loss": 1.0}, {}),
        ("m.csv", "metric,value\nacc,0.5\nloss,1\n", {"acc": 0.5, "loss": 1.0}, {}),
        ("m.csv", ",f1,support\ncat,0.5,3\ndog,1,\n", {"cat.f1": 0.5, "dog.f1": 1.0}, {}),
        ("m.csv", "epoch,loss\n1,0.5\n2,0.25\n", {"epoch": 2.0, "loss": 0.25}, {}),
        ("m.csv", "actual,predicted\n1,2\n3,4\n", {}, {}),
        ("m.csv", "", {}, {}),
        ("auc.metric", "0.5\n", {"": 0.5}, {}),
        ("m.json", '"good"', {}, {"": "good"}),
        ("m.yaml", "", {}, {}),
        ("m.json", "[1, 2]", {}, {}),
    ],
)
@pytest.mark.usefixtures("here")
def test_forms_of_metrics(
    name: str, text: str, numbers: dict[str, float], texts: dict[str, str]
) -> None:
    contents = metrics.read(write(name, text))
    assert {key: contents.numbers.get(key) for key in numbers} == numbers
    assert contents.texts == texts
    assert bool(contents.numbers) == bool(numbers)


@pytest.mark.usefixtures("here")
def test_nan_and_inf_are_numbers() -> None:
    for name, text in (("m.json", '{"a": NaN, "b": -Infinity}'), ("m.yaml", "a: .nan\nb: -.inf")):
        numbers = metrics.read(write(name, text)).numbers
        assert math.isnan(numbers["a"])
        assert numbers["b"] == -math.inf


@given(NESTED)
def test_any_value_is_flattened(values: Any) -> None:
    contents = metrics._contents(values)
    assert all(type(number) in (int, float) for number in contents.numbers.values())
    assert all(0 < len(text) <= metrics.MAX_TEXT for text in contents.texts.values())


BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}\n" for n in range(1, 60)
)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("m.yaml", BOMB, "has more than 10,000 values"),
        ("m.yaml", "a: &a {b: *a}", "has more than 10,000 values"),
        ("m.json", "{", "Expecting property name"),
        ("m.json", "[" * 100_000, ""),
        ("m.yaml", "a: [", "while parsing"),
        ("m.toml", "a =", "Invalid value"),
        ("m.csv", "a\n" + "x" * 200_000, "field larger than field limit"),
    ],
)
@pytest.mark.usefixtures("here")
def test_problem_is_one_line(name: str, text: str, problem: str) -> None:
    file = write(name, text)
    good = write("good.json", '{"a": 1}')
    contents = metrics.read_all([file, Path("missing.json"), good])
    assert contents.numbers == {"a": 1}
    assert list(contents.problems) == [file]
    assert problem in contents.problems[file]
    assert "\n" not in contents.problems[file]


@pytest.mark.parametrize(
    ("files", "numbers"),
    [
        (("a.json", "b.json"), {"a/loss", "b/loss", "a", "b"}),
        (("runs/x/m.json", "runs/y/m.json"), {"x/loss", "y/loss", "a", "b"}),
        (("m.json", "m.yaml"), {"m.json/loss", "m.yaml/loss", "a", "b"}),
        (("m.json", "d/m.json"), {"m/loss", "d/m/loss", "a", "b"}),
    ],
)
@pytest.mark.usefixtures("here")
def test_equal_keys_get_prefixes(files: tuple[str, str], numbers: set[str]) -> None:
    paths = [
        write(file, f'{{"loss": 1, "{key}": 2}}') for file, key in zip(files, "ab", strict=True)
    ]
    assert metrics.read_all(paths).numbers.keys() == numbers


@pytest.mark.usefixtures("here")
def test_folders_and_values_without_key() -> None:
    write("eval/auc.txt", "0.5")
    write("eval/test/f1.txt", "0.25")
    write("model.txt", "cnn")
    contents = metrics.read_all([Path("eval"), Path("model.txt"), Path("eval/auc.txt")])
    assert (contents.numbers, contents.texts) == ({"auc": 0.5, "f1": 0.25}, {"model": "cnn"})


@pytest.mark.usefixtures("here")
def test_prefix_is_not_taken() -> None:
    write("a.json", '{"x": 1, "b/x": 2}')
    write("b.json", '{"x": 3}')
    numbers = metrics.read_all([Path("a.json"), Path("b.json")]).numbers
    assert numbers == {"a/x": 1, "b/x": 2, "b.json/x": 3}


@pytest.mark.usefixtures("here")
def test_small_outs_have_numbers() -> None:
    write("out/result.json", '{"rmse": 0.5, "note": "x"}')
    write("out/best.yml", "depth: 3\n")
    write("out/broken.json", "{")
    write("out/vocabulary.json", str({f"w{n}": n for n in range(100)}).replace("'", '"'))
    write("out/large.json", '{"a": 1, "b": "' + "x" * (64 << 10) + '"}')
    write("out/rows.csv", "a\n1\n")
    contents = metrics.read_outs([Path("out"), Path("missing.json")])
    assert contents == metrics.Contents({"rmse": 0.5, "depth": 3})
