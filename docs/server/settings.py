"""Write the two files that a team's server needs to start.

They hold new secrets, and no other user can read them.

python settings.py FOLDER
"""

import json
import os
import secrets
import shlex
import sys
from pathlib import Path

S3_KEY, S3_SECRET = "mlflow", secrets.token_hex()
S3 = {
    "identities": [
        {
            "name": S3_KEY,
            "credentials": [{"accessKey": S3_KEY, "secretKey": S3_SECRET}],
            "actions": ["Admin"],
        }
    ]
}
ENVIRONMENT = {
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:8333",
    "AWS_ACCESS_KEY_ID": S3_KEY,
    "AWS_SECRET_ACCESS_KEY": S3_SECRET,
    "MLFLOW_AUTH_CONFIG_PATH": str(Path(__file__).resolve().with_name("auth.ini")),
    "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.token_hex(),
    "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(),
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
FILES = {
    "s3.json": json.dumps(S3, indent=2) + "\n",
    "settings": "".join(f"{name}={shlex.quote(value)}\n" for name, value in ENVIRONMENT.items()),
}

if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
    sys.exit(__doc__)
existing = [name for name in FILES if Path(sys.argv[1], name).exists()]
if existing:  # a new file would not match the other one
    sys.exit(
        f"{sys.argv[1]}: already has {' and '.join(existing)}; remove both to create new secrets"
    )

for name, text in FILES.items():
    path = Path(sys.argv[1], name)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
