"""Download a file over HTTPS with pooch: to a temporary name, with retries and a size limit."""

import io
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pooch
import requests
import urllib3

from lab.errors import FetchError

TIMEOUT_S = 20  # without a byte from the server
ATTEMPTS = 3
BUSY = (429, 500, 502, 503, 504)  # HTTP statuses
LOOPBACK = ("localhost", "127.0.0.1", "::1")
BLOCK = 1 << 20  # bytes per write
REMEDIES = {  # by a part of the reason
    "CERTIFICATE_VERIFY_FAILED": "set REQUESTS_CA_BUNDLE to the PEM file of its authority",
    "NO_CERTIFICATE": "REQUESTS_CA_BUNDLE should be a PEM file",
    "TLS CA certificate bundle": "correct REQUESTS_CA_BUNDLE",
    "SOCKS": "type: pip install 'requests[socks]'",
    "proxy": "correct HTTPS_PROXY, or add the host to NO_PROXY",
    "Proxy": "correct HTTPS_PROXY",
    "Failed to resolve": "connect to a network, or set HTTPS_PROXY",
}
HEADERS = {"Accept-Encoding": "identity"}  # else requests decompresses what some servers send

pooch.get_logger().setLevel("WARNING")  # at lower levels, pooch logs URLs with their tokens


def retrieve(address: str, folder: Path, max_bytes: int) -> Path:
    """Download `address` into `folder`, under its last component, and return the file.

    Raises FetchError with the address, without its secrets, and the reason.
    """
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    shown = parts._replace(netloc=host, query="", fragment="").geturl()
    if host != parts.netloc:
        raise FetchError(
            f"{shown}: an address with a password is not used: it would end up in logs"
        )
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise FetchError(f"{shown} is not https")
    name = PurePosixPath(parts.path).name
    client = pooch.create(
        folder,
        base_url="",
        registry={name: None},  # the pinned digests are those of the decompressed files
        urls={name: address},
        retry_if_failed=ATTEMPTS - 1,
    )
    downloader: Any = partial(_download, max_bytes=max_bytes)
    try:
        return Path(client.fetch(name, downloader=downloader))
    except (requests.RequestException, FetchError) as error:
        raise FetchError(f"{shown}: {_explained(error)}") from None
    except OSError as error:
        if error.errno is not None:  # of this machine's files
            raise
        raise FetchError(f"{shown}: {_explained(error)}") from None  # of requests' own settings


def _download(address: str, path: str, _client: object, *, max_bytes: int) -> None:
    """Download up to `max_bytes`. Raises RequestException, after which pooch tries again."""
    download = pooch.HTTPDownloader(chunk_size=BLOCK, timeout=TIMEOUT_S, headers=HEADERS)
    with _BoundedFile(path, "wb") as file:
        file.max_bytes = max_bytes
        try:
            download(address, file, None)
        except requests.RequestException as error:
            if _is_temporary(error):
                raise
            raise FetchError(_reason(error)) from None


class _BoundedFile(io.FileIO):
    """A file of limited size, because a server may send without end."""

    max_bytes: int

    def write(self, block: Any, /) -> int:
        if self.tell() + len(block) > self.max_bytes:
            raise FetchError(f"{self.max_bytes + 1} bytes or more, expected {self.max_bytes}")
        return super().write(block)


def _is_temporary(error: requests.RequestException) -> bool:
    """Return whether the server was busy, or an established connection broke."""
    if error.response is not None:
        return error.response.status_code in BUSY
    return not isinstance(error.args[0], urllib3.exceptions.MaxRetryError)


def _reason(error: Exception) -> str:
    """Return the innermost reason. The errors around it show the address with its query."""
    if isinstance(error, requests.RequestException) and error.response is not None:
        return f"HTTP status {error.response.status_code}, {error.response.reason}"
    cause = getattr(error, "reason", None) or error.args[0]
    return _reason(cause) if isinstance(cause, Exception) else str(cause)


def _explained(error: Exception) -> str:
    """Return the reason, with its remedy if there is one."""
    reason = _reason(error)
    remedy = next((remedy for text, remedy in REMEDIES.items() if text in reason), "")
    return f"{reason}; {remedy}" if remedy else reason
