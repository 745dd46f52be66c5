"""Mask secrets in text, because anybody may read the records of a run."""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

MASK = "***"
SECRET_NAME = re.compile(
    r"token|secret|passw|credential|key$|access_key|connection_string", re.IGNORECASE
)
SHORTEST = 8  # of a secret in the environment; a shorter one would mask words
IN_URL = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/'\"]+@", re.IGNORECASE)
PASSWORD = re.compile(r"://[^\s/:@]*:([^\s/]+)@")
IN_QUERY = re.compile(
    r"(?P<name>[?&][^\s=&'\"]*(?:token|secret|passw|credential|key|signature)[^\s=&'\"]*=)[^\s&'\"]+",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Mask the user part of URLs, secrets in their queries, and the secrets of `_secrets`."""
    return _redacted(text, _secrets())


def redacted_all(value: Any) -> Any:
    """Mask the secrets in every string in mappings and lists; keys stay as they are."""
    return _redacted_all(value, _secrets())


def _redacted(text: str, secrets: list[str]) -> str:
    text = IN_QUERY.sub(rf"\g<name>{MASK}", IN_URL.sub(rf"\g<scheme>{MASK}@", text))
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _secrets() -> list[str]:
    """List the secrets of the environment and of DVC's local configuration, the longest first.

    They are recognized by their names; passwords in URLs are secrets as well.
    """
    config = Path(os.environ.get("DVC_ROOT") or ".") / ".dvc" / "config.local"
    is_readable = os.access(config, os.R_OK)
    text = config.read_text(encoding="utf-8", errors="replace") if is_readable else ""
    lines = [line.partition("=") for line in text.splitlines()]
    settings = [(name.strip(), value.strip(" '\"")) for name, _, value in lines]
    named = [*os.environ.items(), *settings]
    secrets = {value for name, value in named if SECRET_NAME.search(name)}
    for _, value in named:
        for password in PASSWORD.findall(value):
            secrets |= {password, unquote(password)}
    return sorted((secret for secret in secrets if len(secret) >= SHORTEST), key=len, reverse=True)


def _redacted_all(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        return _redacted(value, secrets)
    if isinstance(value, dict):
        return {name: _redacted_all(inner, secrets) for name, inner in value.items()}
    return [_redacted_all(inner, secrets) for inner in value] if isinstance(value, list) else value
