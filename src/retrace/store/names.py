"""Names that MLflow accepts, for params, metrics, tags and artifacts with any name.

MLflow accepts letters, digits, spaces and `_ - . / :` in at most 250 characters, in the form of a
normalized relative path. Such names stay as they are. In another one, each character that MLflow
refuses becomes a word between colons: `acc@5` is `acc:at:5`, `a//b` is `a/:slash:b`. A name that
is too long ends with a digest; its run has the full name in a tag.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping

SYSTEM = "system/"  # what MLflow's names of system metrics begin with
MAX_NAME = 250  # MLflow's limits, in characters
MAX_TAG = 8000
MAX_PARAM = 6000
MAX_RUN_NAME = 250
MAX_EXPERIMENT = 500
MAX_DATASET = 500
FULL = "retrace.name."  # with a digest appended: tag with the full name of a shortened one

WORDS = {
    "'": "quote",
    '"': "dquote",
    "`": "backtick",
    "(": "lparen",
    ")": "rparen",
    "[": "lbracket",
    "]": "rbracket",
    "{": "lbrace",
    "}": "rbrace",
    "<": "less",
    ">": "greater",
    "=": "equals",
    "+": "plus",
    "*": "star",
    "/": "slash",
    "\\": "backslash",
    "|": "pipe",
    "&": "and",
    "@": "at",
    "#": "hash",
    "$": "dollar",
    "%": "percent",
    "^": "caret",
    "~": "tilde",
    "!": "bang",
    "?": "question",
    ",": "comma",
    ";": "semicolon",
    ":": "colon",
    ".": "dot",
    "": "empty",
}
CHARACTERS = {word: character for character, word in WORDS.items()}

# Slashes and dots that make a path another one: `/a`, `a//b`, `a/`, `a/./b`, `a/../b`, `..a`.
PATH = r"(?:^|(?<=/))/|/\Z|(?:^|(?<=/))\.(?=\.?(?:/|\Z))|^\.(?=\.)|^\Z"
REFUSED = re.compile(rf"[^/\w.\- :]|{PATH}")
WORD = rf"(?:({'|'.join(filter(None, WORDS.values()))})|x((?:10|[0-9a-f])?[0-9a-f]{{1,4}}))"
ESCAPED = re.compile(rf":{WORD}:")
CUT = re.compile(r":cut-([0-9a-f]{16}):\Z")

# A server reads the path of an artifact as a URL, of which `#` and `?` end the path, and `%41` is
# decoded. A colon may end a scheme, so that words are in parentheses.
REFUSED_IN_PATH = re.compile(
    rf"[#?\\\x00-\x1f\x7f\ud800-\udfff]|%(?=[0-9A-Fa-f]{{2}})|;\Z|^ |{PATH}"
)
SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*:")
ESCAPED_IN_PATH = re.compile(rf"\({WORD}\)")


def encode(name: str) -> str:
    """Return the name under which MLflow keeps a param, metric or tag called `name`."""
    escaped = _escaped(name)
    if len(escaped) <= MAX_NAME:
        return escaped
    ending = f":cut-{_digest(name)}:"
    return escaped[: MAX_NAME - len(ending)] + ending


def decode(encoded: str, tags: Mapping[str, str] | None = None) -> str:
    """Return the name that `encode` was given.

    A shortened name is looked up in the tags of its run; without them, it is returned as it is.
    """
    cut = CUT.search(encoded)
    if cut is None:
        return _unescaped(encoded)
    full = (tags or {}).get(FULL + cut[1])
    return encoded if full is None else _unescaped(full)


def tags(values: Mapping[str, str]) -> dict[str, str]:
    """Return tags as MLflow accepts them, with those that have the full names of others."""
    encoded = {encode(name): storable(value) for name, value in values.items()}
    return encoded | full_names(values)


def full_names(names: Iterable[str]) -> dict[str, str]:
    """Return the tags that a run needs for `decode`: those of the names that are too long."""
    escaped = {name: _escaped(name) for name in names}
    return {
        FULL + _digest(name): storable(full)
        for name, full in escaped.items()
        if len(full) > MAX_NAME
    }


def encode_path(path: str) -> str:
    """Return the path that the file `path` has among a run's artifacts.

    It is `path` itself if MLflow accepts that. Otherwise words are in parentheses: `a#1.png` is
    `a(hash)1.png`.
    """
    if not any(pattern.search(path) for pattern in (REFUSED_IN_PATH, ESCAPED_IN_PATH, SCHEME)):
        return path
    escaped = re.compile(rf"{REFUSED_IN_PATH.pattern}|[:(]")
    return escaped.sub(lambda match: f"({_word(match[0])})", path)


def storable(text: str, limit: int = MAX_TAG) -> str:
    """Return `text` in a form that every database can store, in at most `limit` characters."""
    encoded = text.replace("\0", "\\0").encode(errors="backslashreplace")
    return encoded.decode()[:limit]


def _escaped(name: str) -> str:
    """Return `name` as MLflow accepts it, in any length; with each colon escaped, if it differs."""
    if not any(pattern.search(name) for pattern in (REFUSED, ESCAPED, CUT)):
        return name
    return re.sub(f"{REFUSED.pattern}|:", lambda match: f":{_word(match[0])}:", name)


def _word(character: str) -> str:
    return WORDS.get(character) or f"x{ord(character):x}"


def _unescaped(encoded: str) -> str:
    return ESCAPED.sub(lambda match: _character(match[1], match[2]), encoded)


def _character(word: str | None, code: str) -> str:
    return chr(int(code, 16)) if word is None else CHARACTERS[word]


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
