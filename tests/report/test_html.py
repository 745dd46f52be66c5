"""The report page in a browser: complete for every kind of data, and safe for any names."""

import dataclasses
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from dvc.utils.hydra import apply_overrides
from repository import ROOT

from lab import params, paths
from lab.data.samples import Samples
from lab.evaluation import metrics, suspicious
from lab.evaluation.artifacts import NetworkViews, Predictions
from lab.report.figures import FIGURES
from lab.report.html import baseline, curves, formatting, page
from lab.report.html.baseline import Change
from lab.report.results import Results
from retrace.pipeline import git, params_yaml

pytestmark = pytest.mark.xdist_group("browser")

EVIL = "<script>throw 1</script>\"'><img src=x onerror=alert(1)>"
SECTIONS = ["summary", "run", "changes", "curves", "confusion", "mistakes", "suspicious"]
SECTIONS += ["tsne", "recall", "thresholds", "figures", "reproduce"]
TEST_MD5 = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if shutil.which("chromium") is None:
        subprocess.run(
            ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"], check=True
        )
    with Browser.started() as started:
        yield started


def results(inputs: np.ndarray, names: tuple[str, ...]) -> Results:
    """Return results for `inputs` whose classes alternate; every seventh is misclassified."""
    rng = np.random.default_rng(0)
    n = len(inputs)
    labels = np.arange(n) % len(names)
    predicted = np.where(np.arange(n) % 7 == 3, (labels + 1) % len(names), labels)
    logits = rng.normal(size=(n, len(names))).astype(np.float32)
    logits[np.arange(n), predicted] += 6
    rows = [
        {
            "epoch": i + 1.0,
            "train_loss": 1 / (i + 1),
            "train_accuracy": 0.9,
            "val_loss": 0.5,
            "val_accuracy": 0.85,
        }
        for i in range(40)
    ]
    metrics = {name: value for name, value in rows[-1].items() if name != "epoch"}
    return Results(
        history=rows,
        steps=[{"step": i + 1.0, "learning_rate": 0.1, "loss": 2.0 / (i + 1)} for i in range(50)],
        metrics=metrics
        | {"test_loss": 0.4, "test_accuracy": float((predicted == labels).mean()), "test_f1": 0.86},
        predictions=Predictions(
            logits, logits + rng.normal(size=logits.shape).astype(np.float32), labels
        ),
        samples=Samples(inputs, labels, names),
        batch=(inputs[:8], labels[:8]),
        views=NetworkViews(None, {}, None),
        seed=0,
        log_metric=lambda _name, _value: None,
    )


def pixels(n: int, channels: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, channels, side, side), dtype=np.uint8)


KINDS: dict[str, Callable[[], Results]] = {
    "digits": lambda: results(pixels(120, 1, 12), tuple("0123456789")),
    "colours": lambda: results(
        pixels(90, 3, 100), tuple(f"a class of a long name, number {i}" for i in range(15))
    ),
    "many classes": lambda: results(pixels(300, 3, 8), tuple(f"kind {i}" for i in range(150))),
    "points": lambda: results(
        np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32), ("inner", "outer")
    ),
    "evil": lambda: results(pixels(60, 1, 12), ("one", EVIL, "{{ 7 * 7 }}", "</style></svg>")),
}


@pytest.fixture
def written(folder: Path, values: params_yaml.Values) -> Callable[..., Path]:
    """A function that writes the page in an empty folder."""
    values["figures"]["tsne"]["samples"] = 100

    def write(data: Results, **changed: Any) -> Path:
        paths.FIGURES.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "docs/bench.png", paths.FIGURES / "roc.png")
        inputs = page.Provenance(
            values | changed, {str(paths.TEST): TEST_MD5}, "Linear 8 x 4", "a processor"
        )
        split = {"test": (data.samples, data.predictions.logits)}
        suspicious.save(suspicious.find(split))
        page.save(paths.REPORT, data, {"test_calibration_error": 0.02}, inputs)
        return folder / paths.REPORT

    return write


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_page_has_every_section_and_fits(
    browser: Browser, written: Callable[..., Path], kind: str, width: int, dark: bool
) -> None:
    browser.look(width, 800, dark=dark)
    page = written(KINDS[kind]())
    browser.open(page)
    assert browser.faults == []
    assert [address for address in browser.asked if not address.startswith("data:")] == [
        page.as_uri()
    ]
    assert browser.run("[...document.querySelectorAll('section')].map(s => s.id)") == SECTIONS
    assert browser.run("document.documentElement.scrollWidth") == width
    links = browser.run(
        "[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))"
    )
    assert links is True
    drawings = "[...document.querySelectorAll('img, svg.chart, svg.tsne, svg.cells')]"
    assert browser.run(f"{drawings}.every(drawing => drawing.alt || drawing.ariaLabel)") is True
    drawn = browser.run(
        "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    )
    assert drawn is True
    paper = "getComputedStyle(document.body).backgroundColor"
    assert browser.run(paper) == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")


@pytest.mark.parametrize("script", [True, False])
def test_names_are_never_markup(
    browser: Browser, written: Callable[..., Path], script: bool
) -> None:
    browser.look(1200, 800, script=script)
    page = written(KINDS["evil"](), pretrained=EVIL)
    browser.open(page)
    assert browser.faults == []
    text = page.read_text()
    assert EVIL not in text
    assert text.count("<script>") == text.count("</style>") == 1
    assert "{{ 7 * 7 }}" in text
    assert "&lt;/style&gt;&lt;/svg&gt;" in text


def test_foreign_script_does_not_run(browser: Browser, written: Callable[..., Path]) -> None:
    page = written(KINDS["digits"]())
    page.write_text(
        page.read_text().replace("</main>", "<script>document.title = 'run'</script></main>")
    )
    browser.look(1200, 800)
    browser.open(page)
    assert any("Content Security Policy" in fault for fault in browser.faults)
    assert browser.run("document.title") != "run"


def test_page_without_javascript(browser: Browser, written: Callable[..., Path]) -> None:
    browser.look(1200, 800, script=False)
    browser.open(written(KINDS["digits"]()))
    assert browser.faults == []
    assert browser.run("document.querySelectorAll('svg.tsne .mark title').length") == 100
    assert browser.run("document.querySelector('svg.tsne .mark title').textContent").startswith(
        "true 0, predicted 0 ("
    )
    assert browser.run("getComputedStyle(document.querySelector('.peek')).display") == "none"


@pytest.mark.parametrize("kind", ["digits", "colours", "points"])
def test_tsne_point_shows_image_and_label(
    browser: Browser, written: Callable[..., Path], kind: str
) -> None:
    browser.look(1200, 900)
    data = KINDS[kind]()
    browser.open(written(data))
    browser.scroll_to("#tsne")
    browser.point(*browser.middle("svg.tsne .mark:nth-of-type(1)"))
    text = browser.run("document.querySelector('.words').innerText")
    match = re.fullmatch(r"true (.*), predicted (.*) \(\d+%\); test sample (\d+)", text)
    assert match
    sample = int(match[3])
    assert match[1] == data.samples.label(sample)
    assert match[2] == data.samples.class_names[data.predictions.predicted[sample]]
    if not data.samples.are_images:
        assert browser.run("document.querySelector('.sheet')") is None
        return
    style = "document.querySelector('.sheet').style"
    position = browser.run(f"[{style}.backgroundPositionX, {style}.backgroundPositionY]")
    size = browser.run("(s => [s.offsetWidth, s.offsetHeight])(document.querySelector('.sheet'))")
    columns = browser.run("Number(document.querySelector('.sheet').dataset.columns)")
    row, column = (
        -round(float(at.removesuffix("px")) / side)
        for at, side in zip(position[::-1], size[::-1], strict=True)
    )
    assert row * columns + column == sample
    browser.point(2, 2)
    assert browser.run("document.querySelector('.peek').hidden") is True


def test_tsne_arrow_keys(browser: Browser, written: Callable[..., Path]) -> None:
    browser.look(1200, 900)
    browser.open(written(KINDS["digits"]()))
    browser.run("document.querySelector('svg.tsne').focus()")
    texts = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        browser.press(key)
        texts.append(browser.run("document.querySelector('.words').textContent"))
    assert [text.rsplit(" ", 1)[1] for text in texts] == ["0", "1", "0"]
    browser.press("Escape")
    assert browser.run("document.querySelector('.peek').hidden") is True


def test_sheet_is_lossless_for_grey_images(browser: Browser, written: Callable[..., Path]) -> None:
    data = KINDS["digits"]()
    browser.look(1200, 900)
    browser.open(written(data))
    script = """(async () => {
      const url = document.querySelector('.sheet').style.backgroundImage;
      const image = new Image();
      image.src = /url\\("(.*)"\\)/.exec(url)[1];
      await image.decode();
      const canvas = document.createElement('canvas');
      canvas.width = image.width;
      canvas.height = image.height;
      const context = canvas.getContext('2d');
      context.drawImage(image, 0, 0);
      const data = [...context.getImageData(0, 0, image.width, image.height).data];
      return [image.width, data.filter((_, i) => i % 4 == 0)];
    })()"""
    width, flat = browser.run(script)
    sheet = np.array(flat, np.uint8).reshape(-1, width)
    second = sheet[:12, 12:24]
    np.testing.assert_array_equal(second, data.samples.inputs[1, 0])


def test_page_repeats_without_time_or_path(written: Callable[..., Path], folder: Path) -> None:
    first = written(KINDS["digits"]()).read_bytes()
    assert written(KINDS["digits"]()).read_bytes() == first
    assert str(folder).encode() not in first
    assert len(first) < 1_000_000


@pytest.mark.parametrize(
    ("absent", "change"),
    [
        ("mistakes", {"predictions": "right"}),
        ("tsne", {"predictions": "constant"}),
        ("recall", {"predictions": "one class"}),
    ],
)
def test_page_leaves_out_absent_sections(
    browser: Browser, written: Callable[..., Path], absent: str, change: dict[str, str]
) -> None:
    data = KINDS["digits"]()
    kind = change["predictions"]
    labels = (
        np.zeros_like(data.predictions.labels) if kind == "one class" else data.predictions.labels
    )
    logits = np.eye(10, dtype=np.float32)[labels] if kind == "right" else data.predictions.logits
    features = (
        np.zeros_like(data.predictions.features)
        if kind == "constant"
        else data.predictions.features
    )
    samples = dataclasses.replace(data.samples, labels=labels)
    browser.look(1200, 800)
    browser.open(
        written(
            dataclasses.replace(
                data, predictions=Predictions(logits, features, labels), samples=samples
            )
        )
    )
    assert browser.faults == []
    assert absent not in browser.run("[...document.querySelectorAll('section')].map(s => s.id)")
    assert browser.run(f"document.querySelector('nav a[href=\"#{absent}\"]')") is None


@pytest.fixture
def history(folder: Path) -> Callable[..., str]:
    """A function that changes metrics and lines of params.yaml, and commits the folder."""

    def git(*command: str) -> str:
        who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        return subprocess.run(
            ["git", *who, *command], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet")

    def commit(message: str, metrics: dict[str, float] | None = None, **changed: str) -> str:
        text = paths.PARAMS.read_text()
        for key, value in changed.items():
            text = re.sub(rf"(?m)^{key}: \S+", f"{key}: {value}", text)
        paths.PARAMS.write_text(text)
        if metrics is not None:
            paths.METRICS.parent.mkdir(exist_ok=True)
            paths.METRICS.write_text(json.dumps(metrics))
        git("add", "--all")
        git("commit", "--quiet", "--allow-empty", "--message", message)
        return git("rev-parse", "HEAD")

    return commit


def chosen() -> dict[str, Any]:
    return params.chosen(params_yaml.read())


def test_baseline_is_the_last_different_commit(
    history: Callable[..., str],
) -> None:
    assert baseline.find(chosen(), {"test_accuracy": 0.9}) is None
    history("the start", {"test_accuracy": 0.7})
    second = history("slower", {"test_accuracy": 0.8}, lr="0.004")
    history("a word", None)
    before = chosen()
    paths.PARAMS.write_text(paths.PARAMS.read_text().replace("\nlr: 0.004", "\nlr: 0.003"))
    earlier = baseline.find(chosen(), {"test_accuracy": 0.9})
    assert earlier is not None
    assert (earlier.commit, earlier.subject, earlier.params) == (second, "slower", before)
    assert earlier.date == git.commit_message(second)[0]
    assert baseline.changes(before, chosen()) == [Change("lr", 0.004, 0.003)]
    history("faster", {"test_accuracy": 0.9})
    paths.PARAMS.write_text("# a comment\n" + paths.PARAMS.read_text())
    history("a comment more")
    assert baseline.find(chosen(), {"test_accuracy": 0.9}) == earlier


def test_baseline_that_is_unreadable(history: Callable[..., str]) -> None:
    first = history("good", {"test_accuracy": 0.7})
    kept = paths.PARAMS.read_text()
    paths.METRICS.write_text("{")
    history("half a file")
    earlier = baseline.find(chosen(), {"test_accuracy": 0.9})
    assert earlier is not None
    assert earlier.commit == first
    paths.PARAMS.write_text("lr: 3\n")
    last = history("of another make", {"test_accuracy": 0.6})
    paths.PARAMS.write_text(kept)
    earlier = baseline.find(chosen(), {"test_accuracy": 0.9})
    assert earlier is not None
    assert (earlier.commit, earlier.params, earlier.metrics) == (last, None, {"test_accuracy": 0.6})


def test_page_names_its_baseline(
    browser: Browser, written: Callable[..., Path], history: Callable[..., str]
) -> None:
    data = KINDS["digits"]()
    commit = history(EVIL, {**data.metrics, "test_accuracy": 0.5}, lr="0.004")
    browser.look(1200, 800)
    browser.open(written(data, lr=0.003))
    assert browser.faults == []
    changes = browser.run("document.querySelector('#changes').innerText")
    assert commit[:10] in changes
    assert EVIL in changes
    cells = "[...row.children].map(cell => cell.innerText)"
    rows = browser.run(f"[...document.querySelectorAll('#changes tbody tr')].map(row => {cells})")
    accuracy = data.metrics["test_accuracy"]
    change = f"{(accuracy - 0.5) * 100:+.2f} points, better"
    assert ["lr", "0.004", "0.003"] in rows
    assert ["test_accuracy", "50.00%", f"{accuracy:.2%}", change] in rows
    assert change in browser.run("document.querySelector('#summary').innerText")


def test_metrics_of_another_data_set(
    browser: Browser, written: Callable[..., Path], history: Callable[..., str]
) -> None:
    data = KINDS["digits"]()
    history("mnist", {**data.metrics, "test_accuracy": 0.5})
    browser.look(1200, 800)
    browser.open(written(data, dataset="digits"))
    assert "different data set" in browser.run("document.querySelector('#changes').innerText")
    text = browser.run("document.querySelector('main').innerText")
    assert "better" not in text
    assert "worse" not in text


def test_command_reproduces_the_parameters(
    browser: Browser, written: Callable[..., Path], values: params_yaml.Values, folder: Path
) -> None:
    odd = "a 'folder'/with \"quotes\" and $HOME-12345678.safetensors"
    ran = values | {
        "lr": 1e-05,
        "class_shares": [0.5, 1.0],
        "freeze_backbone": True,
        "model": "mlp",
        "pretrained": odd,
    }
    browser.look(1200, 800)
    browser.open(written(KINDS["digits"](), **ran))
    command = browser.run("document.querySelectorAll('#reproduce pre')[1].innerText")
    script = "dvc() { printf '%s\\n' \"$@\"; }; " + command
    done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
    words = done.stdout.splitlines()
    assert words[:2] == ["exp", "run"]
    assert set(words[2::2]) == {"-S"}
    apply_overrides(folder / paths.PARAMS, words[3::2])
    assert params.chosen(params_yaml.read()) == params.chosen(ran)


@pytest.mark.parametrize(
    ("name", "then", "now", "text"),
    [
        ("test_accuracy", 0.5, 0.75, "+25.00 points, better"),
        ("test_f1", 0.75, 0.5, "-25.00 points, worse"),
        ("test_loss", 0.5, 0.25, "-0.2500, better"),
        ("test_calibration_error", 0.01, 0.02, "+1.00 points, worse"),
        ("test_loss", 0.5, 0.500001, "+1.0e-06, worse"),
        ("test_loss", 0.5, 0.5, "equal"),
        ("test_loss", None, 0.5, "new"),
        ("test_loss", 0.5, None, "gone"),
    ],
)
def test_change_of_a_metric(name: str, then: float | None, now: float | None, text: str) -> None:
    assert formatting.change(Change(name, then, now)) == text


def test_interval_is_wilsons() -> None:
    assert metrics.interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert metrics.interval(1.0, 100) == pytest.approx((0.9630, 1.0), abs=1e-4)
    assert metrics.interval(0.0, 10)[0] == 0


def test_history_is_thinned() -> None:
    rows = [{"epoch": float(i)} for i in range(1500)]
    shown = curves.thinned(rows)
    assert (len(shown), shown[0], shown[-1]) == (curves.ROWS, rows[0], rows[-1])
    assert curves.thinned(rows[:3]) == rows[:3]


def test_page_embeds_the_other_figures(written: Callable[..., Path]) -> None:
    assert set(FIGURES) > page.DRAWN
    assert "ROC" in written(KINDS["digits"]()).read_text()


def themes() -> list[dict[str, str]]:
    """Return the colours of both themes, by name."""
    css = (page.FOLDER / "page.css").read_text()
    parts = css.split("@media print")[0].split("@media (prefers-color-scheme: dark)")
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in parts)
    return [light, light | dark]


def light_of(colour: str) -> float:
    """Return the relative luminance (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    dark, light = sorted(map(light_of, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def mixed(one: str, other: str, share: float) -> str:
    parts = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (one, other)]
    return "#" + "".join(
        f"{round(share * a + (1 - share) * b):02x}" for a, b in zip(*parts, strict=True)
    )


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_have_contrast(theme: int) -> None:
    colours = themes()[theme]
    for ink, ground in itertools.product(("ink", "soft", "link"), ("paper", "card")):
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for i in range(10):
        assert contrast(colours[f"c{i}"], colours["paper"]) >= 3, i
    for share in np.arange(0, 1.001, 0.01):
        ink = colours["on-shade" if share > 0.805 else "off-shade"]
        assert contrast(ink, mixed(colours["shade"], colours["card"], share)) >= 4.5, share
