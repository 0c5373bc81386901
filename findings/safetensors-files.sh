#!/usr/bin/env bash
# safetensors 0.8.0 (2026-11-30), save_file and load_file:
# 1. A file that save_file writes has mode 0600 whatever the umask, since it is written through a private temporary file and renamed; where
#    the path is an existing file of mode 0644, it has 0600 afterwards.
# 2. load_file of a file that may not be read raises FileNotFoundError, not PermissionError.
# 3. Two entries of metadata are written in an order that differs from call to call: the same tensors give other bytes.
# Exits with 1 and "changed" where one of these is no longer so.
set -eu
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.3.5 safetensors==0.8.0
cat > "$home/look.py" <<'P'
import hashlib, os, stat, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file, save_file

home = Path(sys.argv[1])
os.umask(0o022)
tensors = {"a": np.zeros(3, dtype=np.float32)}
found = []

(home / "there").write_bytes(b"")
for name in ("new", "there"):
    save_file(tensors, home / name)
    mode = stat.S_IMODE((home / name).stat().st_mode)
    print(f"umask 022, {name}: mode {mode:04o}")
    found.append(mode == 0o600)

closed = home / "closed"
save_file(tensors, closed)
closed.chmod(0)
child = os.fork()
if child == 0:
    if os.getuid() == 0:
        home.chmod(0o755)
        os.setuid(65534)
    try:
        load_file(closed)
        os._exit(0)
    except FileNotFoundError:
        os._exit(2)
    except PermissionError:
        os._exit(13)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(f"a file that may not be read: {({0: 'it was read', 2: 'FileNotFoundError', 13: 'PermissionError'}).get(status, status)}")
found.append(status == 2)

digests = set()
for number in range(40):
    save_file(tensors, home / "twice", metadata={"format": "pt", "model": "x"})
    digests.add(hashlib.sha256((home / "twice").read_bytes()).hexdigest())
print(f"the same tensors with two entries of metadata, 40 times: {len(digests)} different files")
found.append(len(digests) > 1)
sys.exit(0 if all(found) else 1)
P
"$home/venv/bin/python" "$home/look.py" "$home" || { echo changed; exit 1; }
