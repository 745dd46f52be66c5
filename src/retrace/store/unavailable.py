"""Explain why the MLflow store does not answer: in one line, with the variable and the remedy.

MLflow wraps the errors of its libraries, often as text only; so causes are recognized by the text
of an error and of those that it wraps.
"""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from retrace.errors import RetraceError
from retrace.store import tracking_uri
from retrace.system import mlflow_environment
from retrace.system.redaction import redacted

URI = "MLFLOW_TRACKING_URI"
REGISTRY = "MLFLOW_REGISTRY_URI"
CERTIFICATES = (
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")
PACKAGES = {  # by the module that is missing
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "requests_auth_aws_sigv4": "requests-auth-aws-sigv4",
}
MAX_DETAIL = 120  # characters
NOISE = re.compile(
    r"\[SQL:.*|\(Background on this error.*|\(_ssl\.c:\d+\)|\[(SSL|X509|Errno)[^]]*\]"
    r"|API request to endpoint (\S+ failed with )?|Response body:.*",
    re.DOTALL,
)


class StoreUnavailableError(RetraceError, ConnectionError):
    """MLflow does not answer."""


class Cause(NamedTuple):
    """A cause: the text by which it is recognized, what is wrong, what to do."""

    text: str
    state: str
    remedy: str


CAUSES = (
    Cause(
        r"No module named '(?P<module>\w+)",
        "needs the Python package {module}",
        "type: pip install {package}",
    ),
    Cause(
        r"(?P<setting>MLFLOW_\w+) value must be one of",
        "is not reached",
        "correct {setting}",
    ),
    Cause(
        r"'ignore_tls_verification' is true",
        "is not reached: two variables contradict each other",
        "unset MLFLOW_TRACKING_INSECURE_TLS or MLFLOW_TRACKING_SERVER_CERT_PATH",
    ),
    Cause(
        r"Active workspace",
        "has no workspaces",
        "unset MLFLOW_WORKSPACE",
    ),
    Cause(
        r"Databricks (credential|authentication)",
        "is not reached: Databricks has no credentials here",
        "set DATABRICKS_HOST and DATABRICKS_TOKEN",
    ),
    Cause(r"SOCKS support", "needs SOCKS, for {proxy}", "type: pip install 'requests[socks]'"),
    Cause(
        r"ProxyError|Proxy URL|Tunnel connection failed|error code 407",
        "is not reached through the proxy in {proxy}",
        "correct {proxy}, or add the host to NO_PROXY",
    ),
    Cause(
        r"Invalid Host header",
        "refuses the host name in this address",
        "start it with --allowed-hosts and this name",
    ),
    Cause(
        r"error code 401|UNAUTHENTICATED",
        "refuses these credentials, with status 401",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, "
        "which its admin gives you",
    ),
    Cause(
        r"error code 403|PERMISSION_DENIED",
        "refuses this user, with status 403",
        "correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN; "
        "or ask its admin or the experiment's owner for EDIT permission on the MLflow experiment",
    ),
    Cause(
        r"error code (404|405|3\d\d)|ENDPOINT_NOT_FOUND|not in a valid JSON",
        "has no MLflow API at this address",
        "correct the path in {variable}, or upgrade the server",
    ),
    Cause(
        r"(too many|error code) (?P<status>5\d\d)",
        "answers with status {status}",
        "see the log of the server or of its proxy",
    ),
    Cause(
        r"(certificate bundle|certificate file|key file), invalid path: (?P<file>[^\n]+)",
        "is not reached: the file {file} does not exist",
        "correct {certificate}",
    ),
    Cause(
        r"NO_CERTIFICATE_OR_CRL_FOUND|PEM lib|NO_START_LINE|BAD_BASE64",
        "is not reached: a file of certificates or its key is not in PEM format",
        "correct {certificate}",
    ),
    Cause(
        r"(Hostname|IP address) mismatch|doesn't match",
        "has a certificate for another host name",
        "use that name in {variable}",
    ),
    Cause(
        r"certificate has expired|certificate is not yet valid",
        "has a certificate that is out of date",
        "renew it, or check the clock of this machine",
    ),
    Cause(
        r"CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE|ALERT_BAD_CERTIFICATE",
        "asks for a client certificate",
        "set MLFLOW_TRACKING_CLIENT_CERT_PATH to a PEM file with the certificate and its key",
    ),
    Cause(
        r"CERTIFICATE_VERIFY_FAILED",
        "has a certificate that is not trusted here",
        "set MLFLOW_TRACKING_SERVER_CERT_PATH, or REQUESTS_CA_BUNDLE, to the PEM file of its "
        "certificate or authority",
    ),
    Cause(
        r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|record layer failure|PACKET_LENGTH_TOO_LONG",
        "speaks http, not https",
        "write http:// in {variable}",
    ),
    Cause(
        r"NameResolutionError|Name or service not known|Temporary failure in name|translate host",
        "has a host name that is unknown here",
        "correct the host in {variable}, or connect to its network",
    ),
    Cause(
        r"RemoteDisconnected|ConnectionResetError|BadStatusLine|to (an )?HTTPS (port|server)",
        "closes the connection without an answer",
        "if it speaks https, write https:// in {variable}",
    ),
    Cause(
        r"timed out|timeout expired",
        "does not answer in time",
        "start it, or set MLFLOW_HTTP_REQUEST_TIMEOUT to more seconds",
    ),
    Cause(
        r"InvalidURL|InvalidUrl|Invalid IPv6|ArgumentError|ValueError\s+invalid literal",
        "is not a valid address",
        "{variable} should be like http://HOST:5000 or sqlite:///mlflow.db",
    ),
    Cause(
        r"unsupported URI|NoSuchModuleError|Unity Catalog tracking",
        "is no address of a store that MLflow knows",
        "{variable} should begin with http://, https://, sqlite:///, postgresql://, mysql:// or "
        "mssql://, or be databricks",
    ),
    Cause(
        r"(filesystem|file store|FileStore).{0,80}maintenance",
        "is a folder, which MLflow no longer takes as a store",
        "{variable} should be like sqlite:///mlflow.db or http://HOST:5000; "
        "`mlflow migrate-filestore` copies the runs of a folder into a database",
    ),
    Cause(
        r"authentication failed|Access denied for user|Login failed|no password supplied",
        "refuses the user or the password",
        "correct them in {variable}",
    ),
    Cause(
        r"database \"[^\"]*\" does not exist|Unknown database",
        "has no database of this name",
        "create it, or correct the name in {variable}",
    ),
    Cause(
        r"readonly database",
        "is read-only",
        "make the file and its folder writable",
    ),
    Cause(
        r"file is not a database|malformed|database disk image",
        "is not an intact database",
        "type: retrace doctor",
    ),
    Cause(
        r"out-of-date database schema|Can't locate revision",
        "has the schema of another version of MLflow",
        "upgrade MLflow here, or the database with `mlflow db upgrade`",
    ),
    Cause(
        r"unable to open database file",
        "cannot be opened as a database",
        "check that it is a file, not a folder, and that you may read and write it and its folder",
    ),
    Cause(
        r"Connection refused|NewConnectionError|unreachable|No route to host",
        "does not answer",
        "start it, or set {variable} to another store",
    ),
)
OTHER = Cause("", "does not answer", "start it, or set {variable} to another store")
OTHER_FILE = Cause(
    "",
    "does not answer",
    "check that its file is readable and writable, or set {variable} to another store",
)


def explained(error: BaseException) -> StoreUnavailableError:
    """Return the error that tells the user why the store does not answer."""
    chain = list(_chain(error))
    text = "\n".join(
        f"{type(each).__name__} {getattr(each, 'error_code', '')} {each}" for each in chain
    )
    uri = tracking_uri.address()
    variable = URI
    registry = os.environ.get(REGISTRY)
    if registry and registry.rstrip("/") in text and registry.rstrip("/") != uri.rstrip("/"):
        uri = registry
        variable = REGISTRY
    other = OTHER_FILE if tracking_uri.sqlite_file(uri) else OTHER
    cause = next((cause for cause in CAUSES if re.search(cause.text, text)), other)
    match = re.search(cause.text, text)
    groups = match.groupdict() if match else {}
    names = groups | {
        "variable": variable,
        "package": PACKAGES.get(groups.get("module", ""), groups.get("module", "")),
        "certificate": _set(CERTIFICATES, groups.get("file", "")),
        "proxy": _set(PROXIES),
    }
    detail = " ".join(NOISE.sub("", str(chain[-1]).partition("[SQL:")[0]).split())[:MAX_DETAIL]
    state = redacted(f"{uri} {cause.state.format(**names)} ({detail})")
    return StoreUnavailableError(f"{state}; {cause.remedy.format(**names)}")


def demand_timeout() -> None:
    """Raise RetraceError if MLflow cannot read its timeout."""
    value = os.environ.get(mlflow_environment.TIMEOUT)
    if value and not (value.isascii() and value.isdigit() and int(value)):
        allowed = "should be a whole number of seconds, such as 120"
        raise RetraceError(f"{mlflow_environment.TIMEOUT} is {value!r}; {allowed}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and those that it wraps."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        inner = inner.__cause__ or inner.__context__


def _set(names: tuple[str, ...], value: str = "") -> str:
    """Return the variable with this value, else the names of those that are set."""
    present = [name for name in names if os.environ.get(name)]
    same = [name for name in present if os.environ[name] == value]
    return " or ".join(same or present or names[:1])
