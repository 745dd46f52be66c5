"""What is kept of a command's output."""

import pytest

from retrace.tracking import recording
from retrace.tracking.recording import FIRST_BYTES, LAST_BYTES, Recording

LIMIT = FIRST_BYTES + LAST_BYTES


def recorded(*chunks: bytes) -> str:
    log = Recording()
    for chunk in chunks:
        log.add(chunk)
    return log.text()


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"a\nb\n", "a\nb\n"),
        (b"no newline", "no newline"),
        (b"\r 10%\r 50%\r100%\nnext\n", "100%\nnext\n"),
        (b" 10%\r 50%\r", " 50%"),
        (b"a\r\nb\r\n", "a\nb\n"),
        (b"\x1b[31mred\x1b[0m \x1b]8;;x\x07link\n", "red link\n"),
        (b"\xff\n", "\ufffd\n"),
    ],
)
def test_text_is_readable(output: bytes, expected: str) -> None:
    assert recorded(output) == expected
    assert recorded(*(output[at : at + 1] for at in range(len(output)))) == expected


@pytest.mark.parametrize("n_chunks", [1, 1000])
def test_recording_is_bounded(n_chunks: int) -> None:
    lines = b"".join(b"%07d\n" % number for number in range(LIMIT // 2))
    size = len(lines) // n_chunks
    text = recorded(*(lines[at : at + size] for at in range(0, len(lines), size)))
    before, _, after = text.partition("... ")
    n_left_out = int(after.split(" bytes")[0].replace(",", ""))
    assert before.startswith("0000000\n")
    assert text.endswith(f"{LIMIT // 2 - 1:07}\n")
    assert len(before) + len(after.partition("\n")[2]) + n_left_out == len(lines)
    assert LIMIT - 100 < len(text) < LIMIT + 100


def test_progress_bar_takes_no_memory() -> None:
    log = Recording()
    for step in range(100_000):
        log.add(b"\r%06d" % step)
    assert len(log._line) < 100
    assert log.text() == "099999"


def test_endless_line_is_bounded() -> None:
    assert len(recorded(*[b"x" * 10_000] * 1000)) < LIMIT + 100


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "wet-paint-77")
    assert recorded(b"got wet-pa", b"int-77\n") == "got ***\n"


@pytest.mark.parametrize("offset", range(-13, 3))
def test_gap_splits_no_secret(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "FIRST_BYTES", 100)
    monkeypatch.setattr(recording, "LAST_BYTES", 100)
    monkeypatch.setenv("SOME_TOKEN", "wet-paint-77")
    log = Recording()
    log.add(b"a" * (99 + offset) + b" wet-paint-77 " + b"b" * 80 + b"\n")
    log.add(b"line\n" * 100)
    assert not any(part in log.text() for part in ("wet-", "77"))
