"""Open a page in the user's browser once its server answers.

python -m retrace.system.browser ADDRESS
"""

import socket
import subprocess
import sys
import time
import webbrowser
from contextlib import suppress
from urllib.parse import urlsplit

from retrace.system import isolated

WITHIN_S = 60.0  # for the server to start
PAUSE_S = 0.2


def open_later(address: str) -> None:
    """Let another process open the page, because this one becomes the server."""
    subprocess.Popen(
        [*isolated.python("retrace.system.browser"), address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def main() -> None:
    address = sys.argv[1]
    server = urlsplit(address)
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        with (
            suppress(OSError),
            socket.create_connection((server.hostname, server.port), timeout=PAUSE_S),
        ):
            webbrowser.open(address)
            return
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
