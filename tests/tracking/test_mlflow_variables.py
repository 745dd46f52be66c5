"""What MLflow clients in a stage's command find in their environment."""

import json
from pathlib import Path

import pytest

from retrace.event_log import Event
from retrace.store import tracking_uri
from retrace.system import processes
from retrace.tracking import loopback, mlflow_variables

START: Event = {
    "id": "20261201T000000-fit-0123abcd",
    "stage": "fit",
    "experiment": {"dvc.exp_name": "tame"},
    "mlflow_experiment": "houses",
}
CONTEXT = {
    "retrace.below.attempt": START["id"],
    "retrace.below.stage": "fit",
    "dvc.exp_name": "tame",
}
SERVER = "http://127.0.0.1:1/retrace/0123abcd"


@pytest.fixture(autouse=True)
def _repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".dvc").mkdir()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(loopback, "address", lambda *_: SERVER)


def variables() -> dict[str, str]:
    return mlflow_variables.variables(START, processes.identity(), Path.cwd())


def test_defaults(folder: Path) -> None:
    set_here = variables()
    assert json.loads(set_here.pop("MLFLOW_RUN_CONTEXT")) == CONTEXT
    assert set_here == {
        "MLFLOW_TRACKING_URI": SERVER,
        "MLFLOW_EXPERIMENT_NAME": "houses",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "RETRACE_STORE": f"sqlite:///{folder}/mlflow.db",
    }


def test_store_is_behind_the_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables().items():
        monkeypatch.setenv(name, value)
    assert tracking_uri.address() == f"sqlite:///{folder}/mlflow.db"


@pytest.mark.parametrize("uri", ["https://example.org", "databricks"])
def test_server_of_the_user_stays(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert variables().keys() == {"MLFLOW_RUN_CONTEXT", "MLFLOW_EXPERIMENT_NAME"}


def test_database_of_the_user_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://host/runs")
    assert variables()["RETRACE_STORE"] == "postgresql+psycopg2://host/runs"


def test_dotenv_of_the_user_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("A=1\nexport MLFLOW_TRACKING_URI = https://example.org\n")
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    assert variables().keys() == {"MLFLOW_RUN_CONTEXT"}


@pytest.mark.parametrize("name", ["MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"])
def test_experiment_of_the_user_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "7")
    assert "MLFLOW_EXPERIMENT_NAME" not in variables()


@pytest.mark.parametrize(
    ("own", "merged"), [('{"team": "a"}', {"team": "a"} | CONTEXT), ("not JSON", CONTEXT)]
)
def test_context_is_merged(
    monkeypatch: pytest.MonkeyPatch, own: str, merged: dict[str, str]
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", own)
    assert json.loads(variables()["MLFLOW_RUN_CONTEXT"]) == merged


def test_proxy_is_bypassed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    assert variables()["no_proxy"] == "127.0.0.1"
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert variables()["no_proxy"] == "example.org,127.0.0.1"
