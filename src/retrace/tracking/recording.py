"""What is kept of a command's output: its beginning and its end, as text without secrets."""

import re

from retrace.system.redaction import redacted

FIRST_BYTES = 256 * 1024
LAST_BYTES = 768 * 1024
LINE_BYTES = 64 * 1024  # of a line that has not ended; a longer one is kept in pieces
REWRITTEN = re.compile(rb"^[^\n]*\r(?=[^\r\n])", re.MULTILINE)  # earlier states of a progress bar
ESCAPE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
LINE_END = re.compile(rb"\r+$", re.MULTILINE)


class Recording:
    """A bounded recording of one output, in memory.

    Of a line that was rewritten after carriage returns, only the last state is kept.
    """

    def __init__(self) -> None:
        self._first = bytearray()
        self._last = bytearray()
        self._line = b""  # has not ended yet
        self._n_left_out = 0

    def add(self, data: bytes) -> None:
        """Record what was written next."""
        lines, newline, self._line = (self._line + data).rpartition(b"\n")
        self._keep(_last_states(lines + newline))
        self._line = _last_states(self._line)
        if len(self._line) > LINE_BYTES:
            self._keep(self._line)
            self._line = b""

    def text(self) -> str:
        """Return what was recorded. A line in the middle says how much is left out."""
        first = bytes(self._first)
        last = bytes(self._last) + self._line
        n_left_out = self._n_left_out
        if n_left_out or len(last) > LAST_BYTES:
            # Cut between lines: half a secret would not be recognized.
            kept_first = first[: first.rfind(b"\n") + 1]
            kept_last = last[-LAST_BYTES:].partition(b"\n")[2]
            n_left_out += len(first) + len(last) - len(kept_first) - len(kept_last)
            gap = f"... {n_left_out:,} bytes are left out here ...\n"
            return _readable(kept_first) + gap + _readable(kept_last)
        return _readable(first + last)

    def _keep(self, data: bytes) -> None:
        room = FIRST_BYTES - len(self._first)
        self._first += data[:room]
        self._last += data[room:]
        surplus = len(self._last) - LAST_BYTES
        if surplus > LAST_BYTES:  # not at every call, because it moves the rest
            del self._last[:surplus]
            self._n_left_out += surplus


def _last_states(lines: bytes) -> bytes:
    return REWRITTEN.sub(b"", lines) if b"\r" in lines else lines


def _readable(output: bytes) -> str:
    plain = LINE_END.sub(b"", ESCAPE.sub(b"", output))
    return redacted(plain.decode(errors="replace"))
