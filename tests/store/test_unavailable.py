"""A store that does not answer: one line with the variable and the remedy, without secrets."""

import datetime as dt
import ipaddress
import shutil
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from retrace.errors import RetraceError
from retrace.store import backend
from retrace.store.unavailable import StoreUnavailableError

URI = "MLFLOW_TRACKING_URI"
CA = "MLFLOW_TRACKING_SERVER_CERT_PATH"
CLIENT = "MLFLOW_TRACKING_CLIENT_CERT_PATH"
INSECURE = "MLFLOW_TRACKING_INSECURE_TLS"
OTHERS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "NO_PROXY", "no_proxy")

Serve = Callable[..., str]

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out this machine's own certificates and proxies."""
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    for name in (*OTHERS, *proxies, *map(str.lower, proxies)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PEM file with a certificate for 127.0.0.1 and its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = tmp_path_factory.mktemp("tls") / "store.pem"
    file.write_bytes(built.public_bytes(form) + key.private_bytes(form, *plain))
    return file


class Handler(BaseHTTPRequestHandler):
    """Answers each request with the server's status and body, and notes its headers."""

    def do_POST(self) -> None:
        web = cast("Web", self.server)
        web.seen.append(dict(self.headers))
        self.send_response(web.status)
        self.end_headers()
        self.wfile.write(web.body)

    do_GET = do_POST  # noqa: N815 - the name that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass


class Web(ThreadingHTTPServer):
    """A web server on loopback."""

    daemon_threads = True
    status = 200
    body = b"{}"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict[str, str]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that refuses the certificate


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def secure(web: Web, certificate: Path) -> str:
    """Return the address of a server with a certificate that no authority has signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    web.socket = context.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
    return f"https://127.0.0.1:{web.server_port}"


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that returns why the store is unavailable, with these variables."""

    def message(uri: str, **env: str) -> str:
        for name, value in {URI: uri, **env}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreUnavailableError) as caught:
            backend.client()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return message


def test_certificate_is_trusted_by_variable(
    secure: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URI, secure)
    for name, value in {CA: str(certificate), INSECURE: "true"}.items():
        monkeypatch.setenv(name, value)
        backend.client()
        monkeypatch.delenv(name)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    backend.client()


def test_untrusted_certificate_names_variables(secure: str, refused: Serve) -> None:
    assert {CA, "REQUESTS_CA_BUNDLE"} <= set(refused(secure).replace(",", " ").split())


def test_other_name_in_certificate(secure: str, refused: Serve, certificate: Path) -> None:
    elsewhere = secure.replace("127.0.0.1", "localhost")
    assert f"in {URI}" in refused(elsewhere, **{CA: str(certificate)})


@pytest.mark.parametrize("name", [CA, CLIENT, "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("file", ["none.pem", "params.yaml"])
def test_bad_certificate_file_is_named(
    secure: str, refused: Serve, certificate: Path, name: str, file: str
) -> None:
    trusted = {CA: str(certificate)} if name == CLIENT else {}
    message = refused(secure, **trusted, **{name: file})
    assert name in message.rpartition(";")[2]
    assert file == "params.yaml" or file in message


def test_contradicting_variables(secure: str, refused: Serve, certificate: Path) -> None:
    message = refused(secure, **{CA: str(certificate), INSECURE: "true"})
    assert f"unset {INSECURE} or {CA}" in message
    assert f"correct {INSECURE}" in refused(secure, **{INSECURE: "maybe"})


def test_http_and_https_confused(web: Web, refused: Serve, certificate: Path) -> None:
    plain = f"127.0.0.1:{web.server_port}"
    assert f"write http:// in {URI}" in refused(f"https://{plain}")


def test_http_to_an_https_port(secure: str, refused: Serve) -> None:
    assert f"write https:// in {URI}" in refused(secure.replace("https", "http"))


@pytest.mark.parametrize(
    ("status", "body", "remedy"),
    [
        (401, b"<html>", "MLFLOW_TRACKING_PASSWORD"),
        (401, b'{"error_code": "UNAUTHENTICATED"}', "MLFLOW_TRACKING_TOKEN"),
        (403, b"<html>", "MLFLOW_TRACKING_USERNAME"),
        (403, b"Invalid Host header", "--allowed-hosts"),
        (404, b"<html>", f"correct the path in {URI}"),
        (200, b"<html>", f"correct the path in {URI}"),
        (502, b"<html>", "502"),
    ],
)
def test_status_names_the_remedy(
    web: Web, refused: Serve, status: int, body: bytes, remedy: str
) -> None:
    web.status = status
    web.body = body
    message = refused(f"http://me:canary@127.0.0.1:{web.server_port}")
    assert remedy in message
    assert "canary" not in message


def test_credentials_are_sent(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URI, f"http://127.0.0.1:{web.server_port}/prefix/")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary")
    backend.client()
    assert web.seen[-1]["Authorization"] == "Bearer canary"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_dead_proxy_is_named(refused: Serve, name: str) -> None:
    message = refused("http://store.example", **{name: "http://me:canary@127.0.0.1:9"})
    assert f"correct {name}" in message
    assert "canary" not in message


def test_proxy_is_used(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URI, "http://store.example")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{web.server_port}")
    backend.client()
    assert web.seen[-1]["Host"] == "store.example"


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("http://127.0.0.1:9", "start it"),
        ("http://[::1]:9", "start it"),
        ("http://store.invalid", f"correct the host in {URI}"),
        ("http://127.0.0.1:port", f"{URI} should be like"),
        ("http://[::1", f"{URI} should be like"),
        ("foo://store", f"{URI} should begin with"),
        ("localhost:5000", f"{URI} should begin with"),
        ("./runs", "mlflow migrate-filestore"),
        ("mysql+pymysql://me:canary@127.0.0.1:9/runs", "pip install pymysql"),
        ("mysql://me:canary@127.0.0.1:9/runs", "pip install mysqlclient"),
        ("postgresql+foo://me:canary@127.0.0.1:9/runs", f"{URI} should begin with"),
        ("postgresql+psycopg2://me:canary@127.0.0.1:9/runs", "start it"),
        ("postgresql+psycopg2://me:canary@127.0.0.1:port/runs", f"{URI} should be like"),
    ],
)
def test_address_names_the_remedy(refused: Serve, uri: str, remedy: str) -> None:
    message = refused(uri)
    assert remedy in message
    assert "canary" not in message


@pytest.mark.usefixtures("store")
def test_registry_elsewhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9/registry")
    client = backend.client()
    expected = pytest.raises(StoreUnavailableError, match="set MLFLOW_REGISTRY_URI")
    with expected, backend.mlflow_errors():
        client.search_registered_models()


@pytest.mark.parametrize("value", ["abc", "0", "1.5", "-1"])
def test_timeout_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", value)
    with pytest.raises(RetraceError, match=f"MLFLOW_HTTP_REQUEST_TIMEOUT is '{value}'; should"):
        backend.client()


def test_folder_in_place_of_a_database(folder: Path, refused: Serve) -> None:
    (folder / "runs.db").mkdir()
    assert "not a folder" in refused("sqlite:///runs.db")


def test_damaged_database(folder: Path, refused: Serve) -> None:
    (folder / "runs.db").write_text("no database" * 200)
    assert "retrace doctor" in refused("sqlite:///runs.db")


def test_database_of_another_mlflow(folder: Path, refused: Serve, empty_store: Path) -> None:
    shutil.copy(empty_store, folder / "runs.db")
    with closing(sqlite3.connect(folder / "runs.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        database.commit()
    assert "mlflow db upgrade" in refused("sqlite:///runs.db")
