"""Recipes: each is its own experiment, whatever was run before, after a shell and DVC read it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.cli import parse_args
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, to_hydra_overrides
from hydra.errors import OverrideParseException
from hypothesis import example, given
from hypothesis import strategies as st
from repository import BIN, ROOT, environment

from lab import params, paths, recipes
from lab.cli import recipe as command
from lab.data.datasets import DATASETS
from lab.models.networks import MODELS
from lab.params import Values
from lab.report.figures import FIGURES
from lab.training.augmentations import AUGMENTATIONS
from lab.training.losses import LOSSES
from lab.training.optimizers import OPTIMIZERS
from lab.training.schedules import SCHEDULES
from retrace.errors import ParamsError
from retrace.pipeline import overrides, params_yaml

NAMES = sorted(file.stem for file in (ROOT / recipes.FOLDER).glob("*.yaml"))
FUNCTIONS: dict[str, dict[str, Any]] = {
    "dataset": {name: dataset.read for name, dataset in DATASETS.items()},
    "model": MODELS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
}

# What the tutorials say, in the words of `-S`.
FAITHFUL = (
    "schedule=constant scaling=unit augmentation=none keep=last patience=0 "
    "validation_fraction=0.02 class_shares=[] folds=1 pretrained=none freeze_backbone=false seed=0 "
)
CROSS_ENTROPY = (
    "loss=cross_entropy losses.cross_entropy.label_smoothing=0.0 "
    "losses.cross_entropy.class_weights=none "
)
ADAM = "optimizer=adam optimizers.adam.betas=[0.9,0.999] "  # torch's defaults, as in the tutorials
SGD = "optimizer=sgd optimizers.sgd.nesterov=false optimizers.sgd.weight_decay=0.0 "
CIRCLES = (
    f"{FAITHFUL} {CROSS_ENTROPY} {ADAM} dataset=circles datasets.circles.samples=1000 "
    "datasets.circles.noise=0.01 datasets.circles.random_state=42 test_fraction=0.2 model=mlp "
    "models.mlp.hidden=[8,4] lr=0.001 batch_size=1000 split_seed=42 "
)
SIMPLE = (
    f"{FAITHFUL} {CROSS_ENTROPY} {SGD} optimizers.sgd.momentum=0.0 dataset=cifar10 "
    "model=cifar_simple lr=0.01 batch_size=64 epochs=20 "
)
V3 = (
    "dataset=cifar10 model=cifar_v3 models.cifar_v3.channels=[32,64,128] "
    "models.cifar_v3.hidden=64 loss=cross_entropy "
)
UNEVEN = "dataset=mnist model=softmax keep=last "

FROM = {  # recipe -> the tutorial, and its section if they are numbered
    "mnist_tutorial": "tutorial 000",
    "digits_tsne": "tutorial 000",
    "circles_linear": "tutorial 001",
    "circles_relu": "tutorial 001",
    "circles_relu_long": "tutorial 001",
    "fashion_softmax": "tutorial 004",
    "cifar10_simple": "tutorial 002, sections 9.2 and 10.3",
    "cifar10_simple_relu": "tutorial 002, sections 9.2 and 10.3",
    "cifar10_v3": "tutorial 002, section 12.3",
    "cifar10_v3_fast": "tutorial 002, section 12.3",
    "cifar10_vgg16": "tutorial 002, section 11.1",
    "mnist_lenet": "tutorial 003",
    "imbalanced_plain": "tutorial 003",
    "imbalanced_weighted": "tutorial 003",
    "imbalanced_focal": "tutorial 003",
}

TUTORIALS = {  # recipe -> the values in the tutorial
    "mnist_tutorial": (
        f"{FAITHFUL} {CROSS_ENTROPY} {ADAM} dataset=mnist model=cnn models.cnn.channels=[16,32] "
        "models.cnn.kernel_size=5 models.cnn.hidden=128 lr=0.01 batch_size=50 epochs=20 "
        "figures.tsne.samples=500 figures.tsne.perplexity=30"
    ),
    "digits_tsne": (
        "dataset=digits datasets.digits.classes=6 datasets.digits.zoom=1 datasets.digits.side=8 "
        "figures.tsne.of=pixels figures.tsne.perplexity=30 seed=0"
    ),
    "circles_linear": f"{CIRCLES} models.mlp.activation=none epochs=500",
    "circles_relu": f"{CIRCLES} models.mlp.activation=relu epochs=500",
    "circles_relu_long": f"{CIRCLES} models.mlp.activation=relu",
    "fashion_softmax": (
        f"{FAITHFUL} dataset=fashion_mnist model=softmax_scratch models.softmax_scratch.std=0.01 "
        "loss=cross_entropy_scratch optimizer=sgd_scratch lr=0.1 batch_size=256 epochs=10"
    ),
    "cifar10_simple": f"{SIMPLE} models.cifar_simple.activation=none",
    "cifar10_simple_relu": f"{SIMPLE} models.cifar_simple.activation=relu",
    "cifar10_v3": (
        f"{FAITHFUL} {CROSS_ENTROPY} {SGD} {V3} models.cifar_v3.dropout=0.4 "
        "optimizers.sgd.momentum=0.9 lr=0.01 batch_size=32 epochs=150 "
        "schedule=multistep schedules.multistep.milestones=[8,16,24,32] "
        "schedules.multistep.gamma=0.5 augmentation=crop_flip "
        "augmentations.crop_flip.padding=[0,2,3,4] augmentations.crop_flip.flip=true"
    ),
    "cifar10_v3_fast": V3,
    "cifar10_vgg16": (
        f"{FAITHFUL} {CROSS_ENTROPY} {SGD} optimizers.sgd.momentum=0.0 dataset=cifar10 model=vgg16 "
        "models.vgg16.head=replace pretrained=DEFAULT freeze_backbone=true scaling=imagenet "
        "lr=0.01 batch_size=64 epochs=20"
    ),
    "mnist_lenet": "dataset=mnist model=lenet",
    "imbalanced_plain": UNEVEN + CROSS_ENTROPY,
    "imbalanced_weighted": f"{UNEVEN} {CROSS_ENTROPY} losses.cross_entropy.class_weights=balanced",
    "imbalanced_focal": f"{UNEVEN} loss=focal losses.focal.gamma=2.0 losses.focal.alpha=balanced",
}


def git(*arguments: str) -> None:
    who = (
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@localhost",
        "-c",
        "core.hooksPath=/dev/null",
    )
    subprocess.run(
        ["git", *who, *arguments], check=True, env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}
    )


@pytest.fixture
def repository(folder: Path) -> Path:
    """A working directory with params.yaml, dvc.yaml and the recipes, all committed."""
    shutil.copytree(ROOT / recipes.FOLDER, recipes.FOLDER)
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "start")
    return folder


def edit(old: str, new: str) -> None:
    """params.yaml with another line."""
    text = paths.PARAMS.read_text()
    assert text.count(f"\n{old}") == 1, old
    paths.PARAMS.write_text(text.replace(f"\n{old}", f"\n{new}"))


def words_of(values: Values) -> list[str]:
    return [
        word for key, value in recipes.changes(values).items() for word in ("-S", f"{key}={value}")
    ]


def apply(words: list[str]) -> None:
    """What `dvc exp run <words>` does to params.yaml."""
    overrides = to_path_overrides(parse_args(["exp", "run", *words]).set_param or [])
    for path, each in overrides.items():
        apply_overrides(path, each)


def same(one: object, other: object) -> bool:
    """Equal, and of equal types all the way down; the order of keys does not count."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            same(value, other[key]) for key, value in one.items()
        )
    return repr(one) == repr(other)


def looked_up(values: Values, key: str) -> object:
    value: Any = values
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.usefixtures("repository")
def test_recipe_is_the_same_after_another() -> None:
    for name in [*NAMES, *reversed(NAMES)]:
        values = recipes.load(name).values
        apply(words_of(values))
        assert same(params_yaml.read(), values), name
        assert recipes.changes(values) == {}


@pytest.mark.usefixtures("repository")
def test_recipe_has_valid_settings() -> None:
    for name in NAMES:
        experiment = params.checked(recipes.load(name).values)
        for choice, table in FUNCTIONS.items():
            params.bind(table, getattr(experiment, choice), params.TABLES[choice])
        params.bind_all(FIGURES, experiment.figures, "figures")


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("n_images", "size"),
    [(0, ""), (7, "tens"), (99, "tens"), (100, "hundreds"), (1000, "thousands")],
)
def test_recipe_fits_the_number_of_images(
    n_images: int, size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, n_more in (("cat", 0), ("dog", 2000)):
        folder = paths.IMAGES / name
        folder.mkdir(parents=True)
        for number in range(n_images + n_more * bool(n_images)):
            (folder / f"{number}.jpg").touch()
    command.flags("images_finetune", as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert f"{n_images:,} images" in document["choice"] or not n_images
    assert f"for {size}: " in document["choice"] or not n_images
    content = params_yaml.read(recipes.FOLDER / "images_finetune.yaml")
    chosen = content.pop(recipes.BY_NUMBER).get(size, {})
    assert size in (*recipes.RANGES, "")
    for key, value in (content | chosen).items():
        if not isinstance(value, dict):
            assert same(recipes.load("images_finetune").values[key], value)


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("wrong", ["many: {lr: 0.1}", "tens: 3", "7"])
def test_unknown_number_of_images_is_refused(wrong: str) -> None:
    (recipes.FOLDER / "own.yaml").write_text(f"{recipes.BY_NUMBER}:\n  {wrong}\n")
    with pytest.raises(ParamsError, match="own.yaml: .* tens, hundreds, thousands$"):
        recipes.load("own")


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("name", TUTORIALS)
def test_recipe_has_the_tutorial_s_values(name: str) -> None:
    values = recipes.load(name).values
    words = to_hydra_overrides(TUTORIALS[name].split())
    expected = {word.key_or_group: word.value() for word in words}
    assert same({key: looked_up(values, key) for key in expected}, expected)


@pytest.mark.usefixtures("repository")
def test_default_recipe_is_params_yaml() -> None:
    assert same(recipes.load("mnist_cnn").values, params_yaml.read())


@pytest.mark.usefixtures("repository")
def test_imbalanced_recipes_differ_in_the_loss() -> None:
    one, *others = (
        recipes.load(f"imbalanced_{kind}").values for kind in ("plain", "weighted", "focal")
    )
    shares = one["class_shares"]
    assert shares == pytest.approx([0.01 ** (i / 9) for i in range(10)], rel=0.02)
    for other in others:
        apart = {key for key in one if one[key] != other[key]}
        assert apart
        assert apart <= {"loss", "losses"}


@pytest.mark.parametrize("name", NAMES)
def test_header_has_its_fields(name: str) -> None:
    text = (ROOT / recipes.FOLDER / f"{name}.yaml").read_text()
    header = re.match(r"(# .+\n)+", text)
    assert header
    first, *rest = header[0].splitlines()
    fields = [line.split(":")[0].removeprefix("# ") for line in rest if not line.startswith("#   ")]
    assert fields in (["from", "takes", "reached"], ["from", "takes", "reached", "differs"])
    assert "differs" in fields or not recipes_that_repeat(name)
    assert len(first) < 80
    if name in FROM:
        assert rest[0].startswith(f"# from: {FROM[name]}")


def recipes_that_repeat(name: str) -> bool:
    """Whether a recipe claims to be a tutorial's own training."""
    return name in TUTORIALS and " lr=" in TUTORIALS[name]


def test_tutorials_are_recipes() -> None:
    assert set(TUTORIALS) <= set(NAMES)


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("shell", [shell for shell in ("sh", "bash", "zsh") if shutil.which(shell)])
def test_shell_keeps_the_words(shell: str, tmp_path: Path) -> None:
    edit("dataset: mnist ", "dataset: circles ")
    for number, name in enumerate(NAMES):
        words = words_of(recipes.load(name).values)
        assert words
        (tmp_path / str(number)).write_text(" ".join(words) + "\n")
        typed = f"printf '%s\\n' $(cat {number})"
        asked = subprocess.run(
            [shell, "-c", typed], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert asked.stdout.splitlines() == words


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
)
texts = (
    st.text(max_size=8)
    | st.from_regex(r"[\w./+-]{1,8}", fullmatch=True)
    | st.sampled_from(["yes", "on", "1_0", "~"])
)


@given(value=st.recursive(scalars | texts, lambda inner: st.lists(inner, max_size=3), max_leaves=5))
@example("none")
@example("DEFAULT")
@example("models/vgg16-397923af.pth")
@example("../weights.safetensors")
@example([])
@example([1.0, 1, True, None])
@example(1e-7)
@example(1e22)
def test_value_survives_dvc_or_is_refused(value: object) -> None:
    try:
        word = overrides.word("key", value)
    except ParamsError:
        return
    assert re.fullmatch(r"[\w./+\-\[\],]+", word, re.ASCII)
    (override,) = to_hydra_overrides([f"key={word}"])
    assert repr(override.value()) == repr(value)


@pytest.mark.parametrize(
    "value",
    ["a b", "a'b", "*", "$HOME", "a;b", "true", "Null", "1e3", "", "ä", "a:b", "~", {"a": 1}],
)
def test_value_that_needs_quotes_is_refused(value: object) -> None:
    with pytest.raises(ParamsError, match="pretrained cannot be set to .* quotes"):
        overrides.word("pretrained", value)


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(("old", "new"), [("lr: 0.005", "lr: 1"), ("seed: 0", "seed: 0.0")])
def test_1_and_1_0_are_different_values(old: str, new: str) -> None:
    edit(f"{old} ", f"{new} ")
    values = recipes.load("mnist_cnn").values
    key, _, value = old.partition(": ")
    assert recipes.changes(values) == {key: value}


@pytest.mark.usefixtures("repository")
def test_keys_that_are_set_back_are_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit("seed: 0 ", "seed: 7 ")
    edit("lr: 0.005 ", "lr: 7 ")
    command.flags("mnist_tutorial")
    printed = capsys.readouterr()
    assert "-S seed=0" in printed.out
    assert "-S lr=0.01 " in printed.out
    assert printed.err.startswith("mnist_tutorial: ")
    assert printed.err.endswith(": seed\n")


@pytest.mark.usefixtures("repository")
def test_nothing_is_printed_if_none_is_set_back(capsys: pytest.CaptureFixture[str]) -> None:
    command.flags("mnist_tutorial")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("repository")
def test_recipe_changes_the_last_commit() -> None:
    edit("seed: 0 ", "seed: 7 ")
    git("commit", "--quiet", "--all", "--message", "seven")
    assert recipes.load("mnist_tutorial").values["seed"] == 7


def test_recipe_changes_the_file_without_a_commit(folder: Path) -> None:
    shutil.copytree(ROOT / recipes.FOLDER, recipes.FOLDER)
    edit("seed: 0 ", "seed: 7 ")
    env = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    assert (
        subprocess.run(["git", "status"], env=env, capture_output=True, check=False).returncode != 0
    )
    assert recipes.load("mnist_cnn").values["seed"] == 7


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("seed: 0 ", "#", "lacks seed"),
        ("models:\n", "models:\n  mine: {}\n", "has models.mine"),
        ("  lenet: {}", "  lenet: {width: 1}", "lacks models.lenet"),
    ],
)
def test_added_and_removed_keys_are_refused(old: str, new: str, problem: str) -> None:
    values = recipes.load("mnist_cnn").values
    edit(old, new)
    with pytest.raises(ParamsError, match=f"^params.yaml: {problem}, .* commit params.yaml"):
        recipes.changes(values)


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("lrr: 1\n", "lrr is not a key of the last commit's params.yaml; did you mean lr?"),
        (
            "models:\n  cnn:\n    hiden: 1\n",
            "models.cnn.hiden is not a key .*; did you mean models.cnn.hidden?",
        ),
        ("models:\n  cnn: {}\n", "models.cnn is not a key"),
        ("lr: abc\n", "lr is 'abc'; should be a valid number"),
        ("epochs: 1.5\n", "epochs is 1.5; should be a valid integer"),
        ("model: cmm\n", "model is 'cmm'; should be one of softmax, "),
        ("", "should be a table of keys and values"),
        ("- 1\n", "should be a table of keys and values"),
        ("a: [", "not YAML: "),
        ("lr: 1\nlr: 2\n", "not YAML: "),
    ],
)
def test_broken_recipe_is_refused_in_one_line(text: str, problem: str) -> None:
    (recipes.FOLDER / "mine.yaml").write_text(f"# mine\n{text}")
    pattern = rf"^recipes/mine.yaml: {problem.replace('?', '[?]')}"
    with pytest.raises(ParamsError, match=pattern) as raised:
        recipes.load("mine")
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("name", ["cifar10_v4", "../params", "", "/etc/passwd"])
def test_unknown_recipe_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(ParamsError) as raised:
        recipes.load(name)
    assert str(raised.value).startswith(f"recipe {name!r} is not in recipes/; ")
    assert ("did you mean cifar10_v3? " in str(raised.value)) == (name == "cifar10_v4")
    assert str(raised.value).endswith(f"known are {', '.join(NAMES)}")


def test_flags_of_a_refused_recipe_fail_in_dvc() -> None:
    typed = parse_args(["exp", "run", *command.REFUSED.split(), "-S", "lr=0.05"]).set_param
    with pytest.raises(OverrideParseException, match="refused-by-retrace-recipe"):
        to_hydra_overrides(typed)


def retrace(*arguments: str, cwd: Path, code: int = 0) -> tuple[str, str]:
    """What the program printed on stdout and stderr, after it ended with `code`."""
    ended = subprocess.run(
        [BIN / "retrace", *arguments],
        cwd=cwd,
        env=environment(cwd),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    return ended.stdout, ended.stderr


def test_command_works_in_any_folder(repository: Path) -> None:
    inside = repository / "a" / "b"
    inside.mkdir(parents=True)
    listed, _ = retrace("recipe", cwd=inside)
    assert [line.split()[0] for line in listed.splitlines()] == NAMES
    assert len({len(re.findall(r"^\S+ +", line)[0]) for line in listed.splitlines()}) == 1
    printed, errors = retrace("recipe", "cifar10_v3", cwd=inside)
    assert printed.split() == words_of(recipes.load("cifar10_v3").values)
    assert printed.count("\n") == 1
    assert errors == ""


def test_command_ends_with_2_and_a_line(repository: Path, tmp_path_factory: Any) -> None:
    printed, errors = retrace("recipe", "cifar10_v4", cwd=repository, code=2)
    assert (printed, errors.count("\n")) == (f"{command.REFUSED}\n", 1)
    outside = tmp_path_factory.mktemp("outside")
    printed, errors = retrace("recipe", cwd=outside, code=2)
    assert printed == ""
    assert errors.startswith(f"{outside}: no .dvc and no dvc.yaml")
    assert "unrecognized arguments: b" in retrace("recipe", "a", "b", cwd=repository, code=2)[1]
    assert "did you mean recipe?" in retrace("recipes", cwd=repository, code=2)[1]


def test_command_alone_is_help_everywhere(tmp_path: Path) -> None:
    printed, _ = retrace(cwd=tmp_path)
    assert printed == retrace("--help", cwd=tmp_path)[0]
    assert "recipe " in printed


@pytest.mark.parametrize(
    ("argument", "unbuffered"), [("recipe", ""), ("recipe", "1"), ("--help", "")]
)
def test_closed_pipe_ends_the_command_silently(
    repository: Path, argument: str, unbuffered: str
) -> None:
    env = environment(repository) | {"PYTHONUNBUFFERED": unbuffered}
    gone, ours = os.pipe()
    os.close(gone)
    with os.fdopen(ours, "w") as pipe:
        ended = subprocess.run(
            [BIN / "retrace", argument],
            cwd=repository,
            env=env,
            stdout=pipe,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_help_and_list_import_little(repository: Path) -> None:
    source = "import sys; from retrace.cli import main; main._call(); "
    source += "print(*sys.modules, file=sys.stderr)"
    heavy = {"torch", "mlflow", "dvc", "numpy"}
    for arguments, absent in (([], heavy | {"pydantic"}), (["recipe"], heavy)):
        asked = subprocess.run(
            [sys.executable, "-c", source, *arguments],
            cwd=repository,
            capture_output=True,
            text=True,
            check=True,
        )
        assert not absent & set(asked.stderr.split())
