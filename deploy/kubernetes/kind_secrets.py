"""Print the secrets that the overlay `kind` needs, with new passwords, as one manifest.

python deploy/kubernetes/kind_secrets.py | kubectl create -f -
"""

import json
import secrets
import sys

NAMESPACE = "wafer"


def manifest() -> dict[str, object]:
    """All secrets of the cluster; each call makes new passwords."""
    password, key, secret = (secrets.token_hex(16) for _ in range(3))
    keys = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    identity = {"name": "wafer", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": ["Admin"]}
    found = {
        "mongodb": {"password": password},
        "s3-keys": keys,
        "s3-server": {"s3.json": json.dumps({"identities": [identity]})},
        "wafer": {"MONGODB_URL": f"mongodb://wafer:{password}@mongodb:27017/?authSource=admin", **keys},
    }
    return {"apiVersion": "v1", "kind": "List", "items": [_secret(name, values) for name, values in found.items()]}


def _secret(name: str, values: dict[str, str]) -> dict[str, object]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "stringData": values}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(manifest(), indent=2))
