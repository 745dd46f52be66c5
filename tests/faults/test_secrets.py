"""Secrets are redacted wherever something is written."""

from pathlib import Path

import pytest

from faults.servers import Server, rows, unused_port
from faults.stages import Stage, child, sync, tried

IN_ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-bucket",
    "MLFLOW_TRACKING_PASSWORD": "canary-of-the-server",
    "GITLAB_TOKEN": "canary-of-the-forge",
}
IN_ADDRESS = "canary-of-the-address"
IN_MIRROR = "canary-of-the-mirror"
IN_CONFIG = "canary-of-the-remote"
CANARIES = [*IN_ENVIRONMENT.values(), IN_ADDRESS, IN_MIRROR, IN_CONFIG]
MESSAGE = "the words stay, " + ", ".join(CANARIES)


@pytest.fixture
def secrets(folder: Path) -> dict[str, str]:
    """Write a secret to DVC's local configuration; return the environment with the others."""
    (folder / ".dvc").mkdir()
    lines = ("url = https://data.example", "user = me", f"password = {IN_CONFIG}")
    config = "\n    ".join(["['remote \"private\"']", *lines])
    (folder / ".dvc/config.local").write_text(f"{config}\n")
    return IN_ENVIRONMENT | {"RETRACE_MIRROR": f"https://me:{IN_MIRROR}@mirror.example/files"}


def address(port: int) -> str:
    return f"http://me:{IN_ADDRESS}@127.0.0.1:{port}"


def leaks(*locations: Path) -> list[str]:
    """List the files with a secret, and which."""
    files = [
        file
        for location in locations
        for file in (location.rglob("*") if location.is_dir() else [location])
        if file.is_file()
    ]
    assert files
    return [
        f"{file}: {canary}"
        for file in files
        for canary in CANARIES
        if canary.encode() in file.read_bytes()
    ]


def test_secrets_in_errors_are_redacted(folder: Path, local: str, secrets: dict[str, str]) -> None:
    away = secrets | {"MLFLOW_TRACKING_URI": address(unused_port())}
    with Stage(folder, **away) as failing:
        failing.tell(f"raise {MESSAGE}", answered=False)
        assert failing.process.wait(60) == 1
    assert leaks(folder / ".retrace") == []
    with Stage(folder, "evaluate", **away) as stage:
        stage.end()
        assert "does not answer" in stage.stderr
    assert leaks(stage.errors) == []
    sync(folder, **secrets)
    assert (
        child(local, failing.log)
        .data.tags["retrace.error"]
        .startswith("ValueError: the words stay, ")
    )
    assert leaks(*folder.glob("mlflow.db*"), folder / "mlruns", folder / ".retrace") == []


@pytest.mark.faults
@pytest.mark.xdist_group("servers")
def test_server_gets_no_secret(folder: Path, server: Server, secrets: dict[str, str]) -> None:
    url = address(server.port)
    with Stage(folder, **secrets, MLFLOW_TRACKING_URI=url) as stage:
        stage.tell(f"raise {MESSAGE}", answered=False)
        assert stage.process.wait(60) == 1
    with Stage(folder, "evaluate", **secrets, MLFLOW_TRACKING_URI=url) as stage:
        stage.end()
        assert stage.stderr == ""
    output = sync(folder, **secrets, MLFLOW_TRACKING_URI=url)
    server.kill()
    code, refused = tried(folder, **secrets, MLFLOW_TRACKING_URI=url)
    assert code == 2
    output += refused
    output += repr(rows(server.store))
    assert "the words stay" in output
    assert not [canary for canary in CANARIES if canary in output]
    assert leaks(server.folder, folder / ".retrace", stage.errors) == []
