"""Secrets out of text: what is written down about a run may be shown to anybody."""

import os
import re
from typing import Any

MASK = "***"
SECRET_NAME = re.compile(r"token|secret|passw|credential|api_?key|access_?key|private_?key", re.IGNORECASE)
SHORTEST = 6  # of a secret in the environment; a shorter one would mask words
IN_URL = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/@'\"]+@", re.IGNORECASE)
IN_QUERY = re.compile(
    r"(?P<name>[?&][^\s=&'\"]*(?:token|secret|passw|credential|key|signature)[^\s=&'\"]*=)[^\s&'\"]+", re.IGNORECASE
)


def redacted(text: str) -> str:
    """`text` without the user part of URLs, their secret queries, and the environment's secrets, known by name."""
    text = IN_QUERY.sub(rf"\g<name>{MASK}", IN_URL.sub(rf"\g<scheme>{MASK}@", text))
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and value in text and SECRET_NAME.search(name):
            text = text.replace(value, MASK)
    return text


def redacted_all(value: Any) -> Any:
    """The same of every string in mappings and lists; the names in them stay."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {name: redacted_all(inner) for name, inner in value.items()}
    return [redacted_all(inner) for inner in value] if isinstance(value, list) else value
