"""Add members to a team's server, or grant them permissions.

The server's admin runs this in a shell with the server's settings.

python members.py add MEMBER
python members.py allow MEMBER READ|EDIT|MANAGE EXPERIMENT

EXPERIMENT '*' means all experiments, including future ones.
"""

import os
import secrets
import sys
from typing import Any

import requests

SERVER = "http://127.0.0.1:5000/api"


def call(method: str, path: str, **sent: Any) -> Any:
    """Call the server and return its JSON.

    If the request fails, exit with the start of the message: the rest may hold a password's hash.
    """
    if not (password := os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD")):
        sys.exit("MLFLOW_AUTH_ADMIN_PASSWORD is not set; it is in the file that settings.py wrote")
    admin = ("admin", password)
    response = requests.request(method, f"{SERVER}/{path}", auth=admin, timeout=60, **sent)
    if not response.ok:
        sys.exit(response.text[:150])
    return response.json()


match sys.argv[1:]:
    case ["add", member]:
        password = secrets.token_hex()
        call("POST", "2.0/mlflow/users/create", json={"username": member, "password": password})
        print(password)
    case ["allow", member, permission, name]:
        experiment_id = "*"
        if name != "*":
            response = call(
                "GET", "2.0/mlflow/experiments/get-by-name", params={"experiment_name": name}
            )
            experiment_id = response["experiment"]["experiment_id"]
        grant = {
            "username": member,
            "permission": permission,
            "resource_type": "experiment",
            "resource_id": experiment_id,
        }
        call("POST", "3.0/mlflow/users/permissions/grant", json=grant)
    case _:
        sys.exit(__doc__)
