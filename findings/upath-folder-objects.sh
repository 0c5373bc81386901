#!/usr/bin/env bash
# universal_pathlib 0.3.10 over s3fs 2026.9.0 (2026-11-30): where a storage console has made the empty object `set/` that stands for a
# folder, UPath("s3://shop/set").iterdir() yields a child s3://shop/set/set besides the true ones. There is no such object: exists() of
# that child is False. Whoever lists a folder to see whether it is empty, or what is foreign in it, finds something that is not there.
# Prints what it saw; exits with 1 and "changed" where this is no longer so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check universal_pathlib==0.3.10 s3fs==2026.9.0 'moto[server]==5.2.5' aiobotocore==3.10.0 boto3==1.43.117
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import os
import sys

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
os.environ.update(
    AWS_ENDPOINT_URL=f"http://{host}:{port}", AWS_ACCESS_KEY_ID="nobody", AWS_SECRET_ACCESS_KEY="secret", AWS_DEFAULT_REGION="us-east-1"
)

import boto3
from upath import UPath

client = boto3.client("s3")
client.create_bucket(Bucket="shop")
client.put_object(Bucket="shop", Key="set/", Body=b"")  # as a console does for "create folder"
client.put_object(Bucket="shop", Key="set/a.txt", Body=b"a")
keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="shop")["Contents"]]
found = {str(path): path.exists() for path in UPath("s3://shop/set").iterdir()}
print("objects:", keys)
print("iterdir, and exists():", found)
server.stop()
if found == {"s3://shop/set/set": False, "s3://shop/set/a.txt": True}:
    print("as described")
else:
    print("changed")
    sys.exit(1)
PYTHON
