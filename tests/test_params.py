"""params.yaml: what each stage accepts, and one line for all that it does not."""

import contextlib
import tempfile
from pathlib import Path
from typing import Annotated

import pytest
from dvc.utils.serialize import load_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field
from repository import ROOT
from ruamel.yaml import YAML

from lab import params, paths
from retrace.errors import ParamsError
from retrace.pipeline import params_yaml


def write(values: object) -> None:
    with paths.PARAMS.open("w") as file:
        YAML().dump(values, file)  # keeps the order of keys


@pytest.mark.parametrize("stage", params.STAGES.values())
def test_stage_has_its_params_in_the_file(
    stage: type[params.Strict],
) -> None:
    loaded = params.load(stage, ROOT / paths.PARAMS)
    assert set(loaded.model_dump()) == set(stage.model_fields)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("lr", "abc", "lr is 'abc'; should be a valid number"),
        ("lr", 0, "lr is 0; should be greater than 0"),
        ("lr", float("nan"), "lr is nan; should be a finite number"),
        ("lr", True, "lr is True; should be a valid number"),
        ("epochs", 0, "epochs is 0; should be greater than or equal to 1"),
        ("epochs", 1.5, "epochs is 1.5; should be a valid integer"),
        ("epochs", "3", "epochs is '3'; should be a valid integer"),
        ("batch_size", None, "batch_size is None; should be a valid integer"),
        ("batch_size", 0, "batch_size is 0; should be a number of 1 or more, or auto"),
        ("batch_size", "max", "batch_size is 'max'; should be a number of 1 or more, or auto"),
        ("seed", -1, "seed is -1; should be greater than or equal to 0"),
        (
            "dataset",
            "mnits",
            "dataset is 'mnits'; should be one of mnist, fashion_mnist, cifar10, ",
        ),
        (
            "model",
            ["cnn"],
            "model is ['cnn']; should be one of softmax, softmax_scratch, mlp, cnn, ",
        ),
        ("device", "tpu", "device is 'tpu'; should be 'auto', 'cpu', 'cuda' or 'mps'"),
        ("fold", 1, "fold is 1; should be less than folds, which is 1"),
        ("class_shares", [1.0, 0.0], "class_shares.1 is 0.0; should be greater than 0"),
        ("accumulation", 129, "accumulation is 129; should be at most batch_size, which is 128"),
        ("unfreeze_epoch", 1, "unfreeze_epoch is 1; should be 0, because freeze_backbone is false"),
        ("layer_decay", 0.0, "layer_decay is 0.0; should be greater than 0"),
        ("ema_decay", 1.0, "ema_decay is 1.0; should be less than 1"),
        ("clip_norm", -1.0, "clip_norm is -1.0; should be greater than or equal to 0"),
        ("keep", "first", "keep is 'first'; should be 'best' or 'last'"),
        ("validation_fraction", 1, "validation_fraction is 1; should be less than 1"),
        ("models", 3, "models is 3; should be a valid dictionary"),
        ("lrr", 0.1, "lrr is not a key; did you mean lr?"),
        ("zzz", 0.1, "zzz is not a key; known are"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_wrong_value_is_one_line(
    values: params_yaml.Values, key: str, value: object, problem: str
) -> None:
    write({**values, key: value})
    with pytest.raises(ParamsError) as raised:
        params.load(params.Download)
    lines = [line for line in str(raised.value).splitlines() if f": {key}" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"params.yaml: {problem}")


@pytest.mark.usefixtures("folder")
def test_unfreezing_is_within_training(values: params_yaml.Values) -> None:
    frozen = {**values, "freeze_backbone": True, "epochs": 5}
    params.checked({**frozen, "unfreeze_epoch": 4})
    with pytest.raises(ParamsError, match="unfreeze_epoch is 5; should be less than epochs"):
        params.checked({**frozen, "unfreeze_epoch": 5})


@pytest.mark.parametrize("key", ["lr", "dataset", "seed", "models", "figures"])
@pytest.mark.usefixtures("folder")
def test_missing_key_is_named(values: params_yaml.Values, key: str) -> None:
    del values[key]
    write(values)
    with pytest.raises(ParamsError, match=f": {key} is missing"):
        params.load(params.Train)


@pytest.mark.parametrize(
    "text", ["", "- 1\n", "lr: 1\nlr: 2\n", "a: [", "a: !!python/object:os.system x", "\x00", "? {"]
)
def test_file_without_a_table_is_one_line(folder: Path, text: str) -> None:
    (folder / paths.PARAMS).write_text(text)
    with pytest.raises(ParamsError) as raised:
        params.load(params.Download)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("folder")
def test_missing_file_is_named() -> None:
    paths.PARAMS.unlink()
    with pytest.raises(ParamsError, match="no such file"):
        params.load(params.Download)


SCALARS = [
    *("1e-3", "1E5", "1e3", "12e03", "1.", ".5", "-.5", "+1", "-0", "0.0", "1_000", "1:30"),
    *("0x1F", "0o17", "017", "0b11", ".inf", "-.INF", ".nan", "'1'", "2024-01-01"),
    *("yes", "no", "on", "off", "True", "true", "TRUE", "null", "~", ""),
]


@pytest.mark.parametrize("scalar", SCALARS)
def test_scalar_is_read_as_by_dvc(folder: Path, scalar: str) -> None:
    (folder / paths.PARAMS).write_text(f"x: {scalar}\n")
    ours = params_yaml.read()["x"]
    dvcs = load_yaml(str(folder / paths.PARAMS))["x"]
    assert type(ours) is type(dvcs)
    assert repr(ours) == repr(dvcs)


def build(
    image: int, *, width: Annotated[int, Field(ge=1)], names: list[str]
) -> tuple[int, int, list[str]]:
    return image, width, names


def test_choice_is_called_with_its_settings() -> None:
    choice = params.Choice(name="net", settings={"width": 3, "names": ["a"]})
    assert params.bind({"net": build}, choice, "models")(1) == (1, 3, ["a"])


@pytest.mark.parametrize(
    ("settings_", "problem"),
    [
        ({"names": []}, "models.net.width is missing"),
        ({"names": [], "width": 0}, "models.net.width is 0; should be greater than or equal to 1"),
        ({"names": [1], "width": 1}, r"models.net.names.0 is 1; should be a valid string"),
        (
            {"names": [], "width": 1, "wdith": 2},
            "models.net.wdith is not a key; did you mean width?",
        ),
        ({"names": [], "width": "x" * 500}, "models.net.width is 'xxx"),
    ],
)
def test_wrong_setting_is_named(settings_: dict[str, object], problem: str) -> None:
    with pytest.raises(ParamsError, match=problem.replace("?", r"\?")) as raised:
        params.bind({"net": build}, params.Choice(name="net", settings=settings_), "models")
    assert len(str(raised.value)) < 200


def test_integers_become_floats() -> None:
    def scaled(*, by: Annotated[list[float], Field(min_length=1)]) -> list[float]:
        return by

    (by,) = params.bind(
        {"net": scaled}, params.Choice(name="net", settings={"by": [0]}), "models"
    )()
    assert type(by) is float


def test_settings_without_code_are_refused() -> None:
    with pytest.raises(ParamsError, match="models.resnet .*; should be one of net"):
        params.bind({"net": build}, params.Choice(name="resnet", settings={}), "models")


def test_entry_without_settings_is_refused() -> None:
    with pytest.raises(ParamsError, match="figures.b is missing; .* settings for a, b"):
        params.bind_all({"a": lambda: 1, "b": lambda: 2}, {"a": {}}, "figures")


def test_chosen_has_no_other_settings(values: params_yaml.Values) -> None:
    chosen = params.chosen(values)
    assert chosen["models.cnn.hidden"] == 128
    assert not any("sgd" in key for key in chosen)
    assert set(params.chosen(values, params.Download)) == {"dataset"}


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_subnormal=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(key=st.sampled_from(tuple(params.Experiment.model_fields)), value=json_like)
def test_value_of_any_key_gives_no_traceback(key: str, value: object) -> None:
    changed = {**params_yaml.read(ROOT / paths.PARAMS), key: value}
    with contextlib.suppress(ParamsError):
        assert isinstance(params.checked(changed), params.Experiment)


BOMB = "&a [1, 1], b: &b [*a, *a], c: &c [*b, *b], d: [*c, *c]"
WHOLE = params_yaml.read(ROOT / paths.PARAMS)
raw = st.sampled_from(
    [
        "!!python/object/apply:os.system ['touch PWNED']",
        "!!python/name:os.system",
        "!<tag:yaml.org,2002:python/module:os> ''",
        "!!binary aGVsbG8=",
        "!!set {a, b}",
        "!!timestamp 2024-01-01",
        f"{{a: {BOMB}}}",
        "&self [*self]",
        "*nowhere",
        "[" * 400,
        "[" * 400 + "]" * 400,
        "9" * 5000,
        "1e999",
        "-.inf",
        "'\\0'",
        "\u202e\u200b",
        "{? [1, 2] : 3}",
        "{1: 2, null: 3}",
        "${lr}",
        "x; touch PWNED",
        "$(touch PWNED)",
        "|",
        ">-",
        "@",
        "%",
        "---",
        "...",
    ]
)


@settings(max_examples=500, deadline=None)
@given(
    key=st.sampled_from((*params.Experiment.model_fields, "zzz", "1", "~")),
    value=raw | st.text(max_size=20),
)
def test_hostile_text_neither_runs_nor_hangs(key: str, value: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_text(f"{key}: {value}", encoding="utf-8", errors="replace")
        with contextlib.suppress(ParamsError):
            params.checked(WHOLE | params_yaml.read(file))
        assert [left.name for left in Path(folder).iterdir()] == ["params.yaml"]
    assert not Path("PWNED").exists()


@pytest.mark.parametrize("value", [f"{{a: {BOMB}}}", "&self [*self]"])
def test_alias_is_named_by_its_key(folder: Path, value: str) -> None:
    with (folder / paths.PARAMS).open("a") as file:
        file.write(f"\nextra: {value}\n")
    with pytest.raises(ParamsError, match=r"^params.yaml: extra contains a YAML alias"):
        params.load(params.Train)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("1: 2", "1 contains the key 1;"), ("extra: {a: [{~: 3}]}", "extra contains the key None;")],
)
def test_key_that_is_no_text_is_named(folder: Path, text: str, problem: str) -> None:
    (folder / paths.PARAMS).write_text(text)
    with pytest.raises(ParamsError, match=f"^params.yaml: {problem}"):
        params_yaml.read()
