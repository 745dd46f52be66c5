"""Members of a team's server, told to it by its admin: in a shell that has the server's settings.

python members.py add MEMBER
python members.py allow MEMBER READ|EDIT|MANAGE EXPERIMENT    ('*' is each, also of those to come)
"""

import os
import secrets
import sys
from typing import Any

import requests

SERVER = "http://127.0.0.1:5000/api"


def answer(method: str, path: str, **sent: Any) -> Any:
    """The server's; where it refuses, the first of its words are the end: among the others can be a password's hash."""
    if not (password := os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD")):
        sys.exit("MLFLOW_AUTH_ADMIN_PASSWORD is not set; it is in the file that settings.py made")
    admin = ("admin", password)
    said = requests.request(method, f"{SERVER}/{path}", auth=admin, timeout=60, **sent)
    if not said.ok:
        sys.exit(said.text[:150])
    return said.json()


match sys.argv[1:]:
    case ["add", member]:
        password = secrets.token_hex()
        answer("POST", "2.0/mlflow/users/create", json={"username": member, "password": password})
        print(password)
    case ["allow", member, permission, name]:
        which = "*"
        if name != "*":
            found = answer("GET", "2.0/mlflow/experiments/get-by-name", params={"experiment_name": name})
            which = found["experiment"]["experiment_id"]
        allowed = {"username": member, "permission": permission, "resource_type": "experiment", "resource_id": which}
        answer("POST", "3.0/mlflow/users/permissions/grant", json=allowed)
    case _:
        sys.exit(__doc__)
