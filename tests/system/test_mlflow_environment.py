"""Which variables of MLflow our clients and servers heed, and which the user's commands get."""

import os
from collections.abc import Iterator

import pytest
from mlflow import environment_variables

from retrace.system import mlflow_environment

BEHAVIOUR = {
    "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    "MLFLOW_TRUNCATE_LONG_VALUES": "false",
    "MLFLOW_RUN_CONTEXT": '{"a": "b"}',
    "MLFLOW_EXPERIMENT_NAME": "other",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "abc",
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    "_MLFLOW_STATIC_PREFIX": "/mlflow",
}
HEEDED = {
    "MLFLOW_TRACKING_URI": "https://example.org",
    "MLFLOW_REGISTRY_URI": "https://registry.example.org",
    "MLFLOW_TRACKING_TOKEN": "token",
    "MLFLOW_TRACKING_SERVER_CERT_PATH": "ca.pem",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "REQUESTS_CA_BUNDLE": "ca.pem",
    "HTTPS_PROXY": "http://proxy:3128",
    "AWS_ACCESS_KEY_ID": "key",
}
OF_SERVERS = ("GUNICORN_CMD_ARGS", "UVICORN_PORT", "WEB_CONCURRENCY", "FLASK_DEBUG")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(mlflow_environment, "_of_user", {})
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(mlflow_environment.OF_MLFLOW)]:
        del os.environ[name]
    os.environ.update(BEHAVIOUR | HEEDED)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_client_heeds_where_and_who() -> None:
    mlflow_environment.enter()
    assert os.environ.items() >= HEEDED.items()
    assert os.environ.keys().isdisjoint(BEHAVIOUR.keys() - mlflow_environment.SETTINGS.keys())
    assert os.environ.items() >= mlflow_environment.SETTINGS.items()


def test_commands_get_the_users_variables() -> None:
    before = dict(os.environ)
    mlflow_environment.enter()
    mlflow_environment.enter()
    assert mlflow_environment.for_commands(os.environ) == before


def test_default_timeout_is_ours() -> None:
    del os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    mlflow_environment.enter()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "4"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in mlflow_environment.for_commands(os.environ)


def test_server_heeds_where_and_who() -> None:
    env = mlflow_environment.for_servers(os.environ | dict.fromkeys(OF_SERVERS, "1"))
    assert env.items() >= HEEDED.items()
    assert env.keys().isdisjoint({*BEHAVIOUR, *OF_SERVERS})


def test_mlflow_knows_what_is_heeded() -> None:
    assert vars(environment_variables).keys() >= mlflow_environment.HEEDED
