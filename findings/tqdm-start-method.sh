#!/usr/bin/env bash
# tqdm 4.70.1 on Python 3.11 (2026-11): the first progress bar of a process settles how multiprocessing starts processes.
# A bar makes a multiprocessing.RLock of the default context, for bars of several processes, whether or not there are any; after that
# multiprocessing.set_start_method("spawn") raises "context has already been set". A function that shows a bar so changes the program that
# calls it, and one that is called later fails. Making the lock of a context of its own would leave the default open.
# Prints what set_start_method says before and after a bar. Exits 1 with "changed" when it is not refused any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check tqdm==4.70.1
"$folder/venv/bin/python" - <<'PY'
import multiprocessing, os, sys
from tqdm import tqdm

print("after the import:", multiprocessing.get_start_method(allow_none=True))
for _ in tqdm(range(2), file=open(os.devnull, "w")):
    pass
print("after one bar:", multiprocessing.get_start_method(allow_none=True))
try:
    multiprocessing.set_start_method("spawn")
except RuntimeError as error:
    print("set_start_method:", error)
else:
    print("changed")
    sys.exit(1)
PY
