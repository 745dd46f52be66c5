"""Addresses of SQLite databases: any path, as the installed SQLAlchemy and an older one read it."""

from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from retrace.store import tracking_uri

NASTY = [
    "what?",
    "x%2Fy",
    "x%20y",
    "100%",
    "%25",
    "a b",
    "'\"$`;&*[]{}()<>|!#",
    "~",
    "-lead",
    "a\\b",
    "a\nb",
    "a:b@c=d+e",
    "file:",
    "日本ü",
]


@pytest.mark.parametrize("name", NASTY)
def test_sqlalchemy_opens_that_very_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name / "mlflow.db"
    file.parent.mkdir()
    with create_engine(tracking_uri.sqlite_uri(file)).begin() as connection:
        connection.execute(text("CREATE TABLE t (a)"))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert file.stat().st_size


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_address_leads_back_to_the_file(name: str) -> None:
    file = Path("/", name)
    uri = tracking_uri.sqlite_uri(file)
    assert tracking_uri.sqlite_file(uri) == file
    url = make_url(uri)
    path = url.database or ""
    assert (unquote(path.removeprefix("file:")) if "uri" in url.query else path) == str(file)


@pytest.mark.parametrize("name", NASTY)
def test_older_sqlalchemy_decodes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_uri, "_is_decoded", lambda: False)
    file = Path("/", name, "mlflow.db")
    uri = tracking_uri.sqlite_uri(file)
    assert tracking_uri.sqlite_file(uri) == file
    assert (not {"%", "?"}.isdisjoint(name)) == uri.endswith("?uri=true")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:///own.db", "sqlite+pysqlite:///{root}/own.db"),
        ("sqlite:///own.db?timeout=3", "sqlite+pysqlite:///{root}/own.db?timeout=3"),
        ("sqlite:////elsewhere/a%20b.db", "sqlite:////elsewhere/a b.db"),
        ("sqlite:////elsewhere/a%2525.db", "sqlite+pysqlite:////elsewhere/a%2525.db"),
        ("sqlite:///file:/elsewhere/m.db?mode=rw&uri=true", "sqlite:////elsewhere/m.db"),
        ("http://host/%2F?a=b", "http://host/%2F?a=b"),
    ],
)
def test_own_address_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    root = tmp_path / "a%2Fb?"
    root.mkdir()
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    monkeypatch.setattr(tracking_uri, "_is_decoded", lambda: True)
    quoted = tracking_uri.sqlite_uri(root.resolve()).partition("///")[2]
    assert tracking_uri.address() == expected.format(root=quoted)
