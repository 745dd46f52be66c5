"""Secrets in text, and the user's name."""

import os

import pytest

from retrace.system import machine, redaction


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("http://me:canary@host:1/x?y=1", "http://***@host:1/x?y=1"),
        ("postgresql://canary@host/db and more", "postgresql://***@host/db and more"),
        ("https://host/a?token=canary&b=2", "https://host/a?token=***&b=2"),
        ("https://host/a?X-Amz-Signature=canary", "https://host/a?X-Amz-Signature=***"),
        ("the key is canary-value", "the key is ***"),
        ("an e-mail to me@host stays", "an e-mail to me@host stays"),
    ],
)
def test_secrets_are_redacted(monkeypatch: pytest.MonkeyPatch, text: str, redacted: str) -> None:
    monkeypatch.setenv("MY_API_KEY", "canary-value")
    assert redaction.redacted(text) == redacted
    assert redaction.redacted_all({"a": [text], "b": 1}) == {"a": [redacted], "b": 1}


def test_user_without_name_is_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> str:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert machine.user() == str(os.getuid())
