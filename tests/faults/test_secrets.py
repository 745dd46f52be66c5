"""What is secret is written down nowhere."""

from pathlib import Path

import pytest

from faults.servers import Server, rows, unused_port
from faults.stages import Stage, child, sync, tried

IN_ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-bucket",
    "MLFLOW_TRACKING_PASSWORD": "canary-of-the-server",
    "GITLAB_TOKEN": "canary-of-the-forge",
}
IN_ADDRESS, IN_MIRROR, IN_CONFIG = (
    "canary-of-the-address",
    "canary-of-the-mirror",
    "canary-of-the-remote",
)
CANARIES = [*IN_ENVIRONMENT.values(), IN_ADDRESS, IN_MIRROR, IN_CONFIG]
TOLD = "the words stay, " + ", ".join(CANARIES)


@pytest.fixture
def secrets(folder: Path) -> dict[str, str]:
    """The environment's, and beside it those in the local configuration of DVC."""
    (folder / ".dvc").mkdir()
    config = f"['remote \"private\"']\n    url = https://data.example\n    user = me\n    password = {IN_CONFIG}\n"
    (folder / ".dvc/config.local").write_text(config)
    return IN_ENVIRONMENT | {"RETRACE_MIRROR": f"https://me:{IN_MIRROR}@mirror.example/files"}


def address(port: int) -> str:
    return f"http://me:{IN_ADDRESS}@127.0.0.1:{port}"


def leaks(*places: Path) -> list[str]:
    """The files in these places with a canary, and which."""
    files = [
        file
        for place in places
        for file in (place.rglob("*") if place.is_dir() else [place])
        if file.is_file()
    ]
    assert files
    return [
        f"{file}: {canary}"
        for file in files
        for canary in CANARIES
        if canary.encode() in file.read_bytes()
    ]


def test_a_failure_that_tells_secrets_is_shown_without_them(
    folder: Path, local: str, secrets: dict[str, str]
) -> None:
    away = secrets | {"MLFLOW_TRACKING_URI": address(unused_port())}
    with Stage(folder, **away) as failing:
        failing.tell(f"raise {TOLD}", answered=False)
        assert failing.process.wait(60) == 1
    assert leaks(folder / ".retrace") == []
    with Stage(folder, "evaluate", **away) as stage:
        stage.end()
        assert "does not answer" in stage.said
    assert leaks(stage.errors) == []
    sync(folder, **secrets)
    assert (
        child(local, failing.journal)
        .data.tags["retrace.error"]
        .startswith("ValueError: the words stay, ")
    )
    assert leaks(*folder.glob("mlflow.db*"), folder / "mlruns", folder / ".retrace") == []


@pytest.mark.faults
@pytest.mark.xdist_group("servers")
def test_a_server_is_told_no_secret(folder: Path, server: Server, secrets: dict[str, str]) -> None:
    url = address(server.port)
    with Stage(folder, **secrets, MLFLOW_TRACKING_URI=url) as stage:
        stage.tell(f"raise {TOLD}", answered=False)
        assert stage.process.wait(60) == 1
    with Stage(folder, "evaluate", **secrets, MLFLOW_TRACKING_URI=url) as stage:
        stage.end()
        assert stage.said == ""
    said = sync(folder, **secrets, MLFLOW_TRACKING_URI=url)
    server.kill()
    code, refused = tried(folder, **secrets, MLFLOW_TRACKING_URI=url)
    assert code == 2
    said += refused
    said += repr(rows(server.store))
    assert "the words stay" in said
    assert not [canary for canary in CANARIES if canary in said]
    assert leaks(server.folder, folder / ".retrace", stage.errors) == []
