#!/usr/bin/env bash
# Pillow 12.3.0 and 13.0.0 (2026-11): the transparent colour of a PNG (its tRNS chunk) is compared with other numbers than the file's samples.
# - Gray of 4 bits: samples are scaled to 0..255 first, the key is not. With key 7, the pixels of value 7 (shown as 119) stay opaque.
# - RGB of 16 bits: the high bytes of the samples are kept, but the low bytes of the key are what they are compared with.
# The PNG specification (third edition, 11.3.1.1) compares samples as stored. Nothing is raised: what should be transparent is opaque.
# Prints the alpha that Image.convert("RGBA") gives to the pixel of the key's colour. Exits 1 with "changed" when that is 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pillow==12.3.0
"$folder/venv/bin/python" - <<'PY'
import io, struct, sys, zlib
from PIL import Image

def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

def png(bits, color, key, row):
    head = struct.pack(">IIBBBBB", 2, 1, bits, color, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", key), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)

def alpha(data):
    return Image.open(io.BytesIO(data)).convert("RGBA").getpixel((0, 0))[3]

gray = alpha(png(4, 0, struct.pack(">H", 7), b"\x7c"))  # the pixels 7 and 12
wide = alpha(png(16, 2, struct.pack(">3H", 0x1234, 0x5678, 0x9ABC), struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0, 0, 0)))
print(f"alpha of the transparent colour (0 expected): gray of 4 bits {gray}, RGB of 16 bits {wide}")
if gray == 0 or wide == 0:
    print("changed")
    sys.exit(1)
PY
