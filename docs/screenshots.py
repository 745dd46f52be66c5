"""Take the screenshots docs/*.png: all of them, or those named on the command line.

    report    reports/report.html, made by `dvc repro`: light; dark, with the mouse on a point of
              the t-SNE map; and on a phone
    mlflow    MLflow's table of the runs in this repository, with an experiment's stages; and the
              page of one run

To add one: write a function that takes a browser and an output file, and add it to `SHOTS`.
"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests
from browser import Browser
from PIL import Image

from retrace.pipeline import params_yaml

DOCS = Path(__file__).parent
GAP = 24  # pixels between the images of a page
GROUND = "#8a929c"  # the color there
WITHIN_S = 60  # limit until MLflow answers or shows an element
REST_S = 2  # for its page to load what it requests
COLORS = 256  # of an image, at most: enough for text and lines


def report(browser: Browser, path: Path) -> None:
    page = DOCS.parent / "reports/report.html"
    shots = []
    for width, dark, section in (
        (1060, False, "body"),
        (1060, True, "#tsne"),
        (390, True, "#confusion"),
    ):
        browser.look(width, 1060, dark=dark, scale=0.75)
        browser.open(page)
        browser.scroll_to(section)
        if section == "#tsne":
            browser.point(*browser.middle("#tsne .wrong"))
        shots.append(browser.shot())
    save(shots, path)


def mlflow(browser: Browser, path: Path) -> None:
    with served() as url:
        name = {"experiment_name": params_yaml.read()["dataset"]}
        answer = requests.get(
            f"{url}/api/2.0/mlflow/experiments/get-by-name", name, timeout=WITHIN_S
        ).json()
        runs = f"{url}/#/experiments/{answer['experiment']['experiment_id']}/runs"
        browser.look(1500, 640, scale=0.75)
        browser.open(runs)
        for button in (
            "assistant.chat_panel.close",
            "toggle_sidebar_button",
            "runnamecellrenderer",
            "addcolumncta",
        ):
            press(browser, f"[data-component-id*='{button}']")
        for column in (
            "Dataset",
            "Source",
            "test_accuracy",
            "test_loss",
            "val_accuracy",
            "lr",
            "model",
        ):
            press(
                browser, f"[class*='treenode']:has(> [title='{column}']) > [class*='tree-checkbox']"
            )
        browser.press("Escape")
        time.sleep(REST_S)
        shots = [browser.shot()]
        run = browser.run("document.querySelector('.ag-row a[href*=\"/runs/\"]').href")
        browser.open("about:blank")  # a change after the # alone loads no page
        browser.look(1150, 640, scale=0.75)
        browser.open(run)
        press(browser, "[data-component-id*='toggle_sidebar_button']")
        shots.append(browser.shot())
    save(shots, path)


@contextmanager
def served() -> Iterator[str]:
    """Start `retrace ui` and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["retrace", "ui", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=DOCS.parent, stderr=subprocess.DEVNULL, start_new_session=True
    ) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + WITHIN_S
            while time.monotonic() < deadline:
                with suppress(requests.RequestException):
                    requests.get(f"{url}/health", timeout=5).raise_for_status()
                    break
                time.sleep(0.2)
            yield url
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def press(browser: Browser, selector: str) -> None:
    """Wait for the first element that matches the CSS `selector`, click it, and wait again."""
    script = f"(e => e && (e.click() ?? true))(document.querySelector({json.dumps(selector)}))"
    deadline = time.monotonic() + WITHIN_S
    while not browser.run(script):
        if time.monotonic() > deadline:
            sys.exit(
                f"{selector}: not on the MLflow page within {WITHIN_S} s; has `dvc repro` run here?"
            )
        time.sleep(0.2)
    time.sleep(REST_S)


def save(shots: list[bytes], path: Path) -> None:
    """Save the screenshots side by side."""
    images = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    size = (
        sum(one.width + GAP for one in images) + GAP,
        max(one.height for one in images) + 2 * GAP,
    )
    whole = Image.new("RGB", size, GROUND)
    left = GAP
    for one in images:
        whole.paste(one, (left, GAP))
        left += one.width + GAP
    whole.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


SHOTS: dict[str, Callable[[Browser, Path], None]] = {"report": report, "mlflow": mlflow}


def main() -> None:
    names = sys.argv[1:] or list(SHOTS)
    if unknown := [name for name in names if name not in SHOTS]:
        sys.exit(f"{unknown[0]} is not a screenshot; should be one of {', '.join(SHOTS)}")
    with Browser.started() as browser:
        for name in names:
            SHOTS[name](browser, DOCS / f"{name}.png")


if __name__ == "__main__":
    main()
