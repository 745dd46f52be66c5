"""Control headless Chromium (as packaged by Debian) through a pipe, by the DevTools protocol.

It loads files and pages served on this machine, and sends nothing in the background.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--remote-debugging-pipe",
)  # fmt: skip
WITHIN_S = 60.0  # limit for an answer


class Browser:
    """One page in a browser.

    `faults` lists the console's errors and warnings, and failed requests. `asked` lists the
    addresses that the page requested.
    """

    def __init__(self, reads: int, writes: int) -> None:
        self._reads = reads
        self._writes = writes
        self._rest = b""
        self._n = 0
        self._session = ""
        self.faults: list[str] = []
        self.asked: list[str] = []
        self._loaded = False

    @classmethod
    @contextmanager
    def started(cls) -> Iterator["Browser"]:
        """Start a browser with an empty page, and end it afterwards."""
        program = shutil.which("chromium")
        if program is None:
            raise FileNotFoundError("chromium: not installed; `apt-get install chromium` gets it")
        commands_end, writes = os.pipe()
        reads, answers_end = os.pipe()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            process = subprocess.Popen(
                [
                    "bash",
                    "-c",
                    f'exec "$@" 3<&{commands_end} 4>&{answers_end}',
                    "bash",
                    program,
                    *FLAGS,
                    f"--user-data-dir={profile}",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(commands_end, answers_end),
            )
            os.close(commands_end)
            os.close(answers_end)
            try:
                browser = cls(reads, writes)
                browser._attach()
                yield browser
            finally:
                process.kill()
                process.wait()
                os.close(reads)
                os.close(writes)

    def look(
        self, width: int, height: int, *, dark: bool = False, script: bool = True, scale: float = 1
    ) -> None:
        """Set the window's size in CSS pixels, and its theme; a narrow window emulates a phone."""
        narrow = width < 500
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": narrow}
        self.tell("Emulation.setDeviceMetricsOverride", **size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[theme])
        self.tell("Emulation.setScriptExecutionDisabled", value=not script)

    def open(self, address: str | Path) -> None:
        """Load the page at `address`, a URL or a file, and wait until it is complete."""
        self.faults.clear()
        self.asked.clear()
        self._loaded = False
        url = address.resolve().as_uri() if isinstance(address, Path) else address
        answer = self.tell("Page.navigate", url=url)
        if "errorText" in answer:
            raise OSError(f"{url}: {answer['errorText']}")
        deadline = time.monotonic() + WITHIN_S
        while not self._loaded:
            self._hear(deadline)

    def run(self, script: str) -> Any:
        """Evaluate a JavaScript expression in the page; return its value, which must fit JSON."""
        answer = self.tell(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def scroll_to(self, selector: str) -> None:
        """Scroll until the first element that matches the CSS `selector` is at the top."""
        element = f"document.querySelector({json.dumps(selector)})"
        scroll = f"{element}.scrollIntoView({{behavior: 'instant'}})"
        frames = "requestAnimationFrame(() => requestAnimationFrame(done))"
        self.run(f"new Promise(done => {{{scroll}; {frames}}})")

    def middle(self, selector: str) -> tuple[float, float]:
        """Return the center of the first element that matches the CSS `selector`."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.run(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")
        return x, y

    def point(self, x: float, y: float) -> None:
        """Move the mouse to (x, y), in CSS pixels of the window."""
        self.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.tell("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def shot(self, *, whole: bool = False) -> bytes:
        """Return a PNG of the window, or of the `whole` page."""
        return base64.b64decode(
            self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        )

    def tell(self, method: str, **values: Any) -> dict[str, Any]:
        """Send a command of the protocol and return the browser's answer."""
        self._n += 1
        message = {"id": self._n, "method": method, "params": values}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + WITHIN_S
        number = self._n
        while (answer := self._hear(deadline)).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _attach(self) -> None:
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.tell("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tell(f"{domain}.enable")

    def _hear(self, deadline: float) -> dict[str, Any]:
        """Wait for the next message, record what it says about the page, and return it."""
        while b"\0" not in self._rest:
            if not select.select([self._reads], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"chromium: no answer within {WITHIN_S:.0f} s")
            more = os.read(self._reads, 1 << 20)
            if not more:
                raise ConnectionError("chromium: the process has ended")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, values: dict[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self._loaded = True
            case "Network.requestWillBeSent":
                self.asked.append(values["request"]["url"])
            case "Network.loadingFailed":
                self.faults.append(values["errorText"])
            case "Log.entryAdded" if values["entry"]["level"] in ("error", "warning"):
                self.faults.append(values["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.faults.append(values["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled" if values["type"] in ("error", "warning", "assert"):
                self.faults.append(" ".join(str(one.get("value", "")) for one in values["args"]))
