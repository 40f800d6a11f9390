"""Make the buckets that are named and missing, on the S3 server of AWS_ENDPOINT_URL.

python buckets.py wafer mlflow
"""

import sys

from botocore.session import get_session


def make(*names: str) -> None:
    """Make those that are missing."""
    client = get_session().create_client("s3")
    there = {one["Name"] for one in client.list_buckets()["Buckets"]}
    for name in sorted({*names} - there):
        client.create_bucket(Bucket=name)


if __name__ == "__main__":
    make(*sys.argv[1:])
