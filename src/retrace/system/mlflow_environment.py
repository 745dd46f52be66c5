"""MLflow's variables, as retrace's own clients and servers of MLflow see them.

They heed the variables that say where a store is and who asks for it: addresses, credentials,
certificates, a timeout. Any other variable of MLflow is hidden from them, because it changes what
is recorded, or what a server allows. Commands of the user, such as stages, get their variables
back.
"""

import os
from collections.abc import Mapping

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
ANSWER_S = 4  # for a server, unless TIMEOUT is set
ADDRESSES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_WORKSPACE",
    "MLFLOW_ALLOW_FILE_STORE",
    "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_S3_EXPECTED_BUCKET_OWNER",
    "MLFLOW_S3_UPLOAD_EXTRA_ARGS",  # a bucket may demand encryption
    "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE",
    "MLFLOW_PYARROW_EXTRA_CONF",
)
CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_KERBEROS_TICKET_CACHE",
    "MLFLOW_KERBEROS_USER",
    "MLFLOW_UC_OSS_TOKEN",
)
CERTIFICATES = (
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_S3_IGNORE_TLS",
    "MLFLOW_MYSQL_SSL_CA",
    "MLFLOW_MYSQL_SSL_CERT",
    "MLFLOW_MYSQL_SSL_KEY",
)
HEEDED = frozenset((*ADDRESSES, *CREDENTIALS, *CERTIFICATES, TIMEOUT))
OF_MLFLOW = ("MLFLOW_", "_MLFLOW_")
OF_SERVERS = (  # of the programs by which MLflow serves
    *("GUNICORN_", "UVICORN_", "FLASK_", "WERKZEUG_", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"),
    *("prometheus_multiproc_dir", "PROMETHEUS_MULTIPROC_DIR"),
)
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the uploader retries itself
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}

_of_user: dict[str, str | None] = {}  # values of the variables that `enter` changed


def enter() -> None:
    """Make this process a client of MLflow: hide all other variables, add our settings."""
    ours = SETTINGS | ({} if os.environ.get(TIMEOUT) else {TIMEOUT: str(ANSWER_S)})
    others = {name for name in os.environ if name.startswith(OF_MLFLOW)} - HEEDED
    for name in others | ours.keys():
        value = os.environ.get(name)
        if value is None or value != ours.get(name):
            _of_user[name] = value
            os.environ.pop(name, None)
    os.environ.update(ours)


def for_commands(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process for a command of the user's: as before `enter`."""
    user = {name: value for name, value in _of_user.items() if value is not None}
    return {name: value for name, value in env.items() if name not in _of_user} | user


def for_servers(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process for a server of MLflow."""
    return {
        name: value
        for name, value in env.items()
        if name in HEEDED or not name.startswith((*OF_MLFLOW, *OF_SERVERS))
    }
