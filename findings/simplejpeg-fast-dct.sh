#!/usr/bin/env bash
# simplejpeg 1.9.0 (2026-11-30, x86-64): encode_jpeg(..., fastdct=False) makes the same bytes as fastdct=True below quality 96. The fast, less
# accurate DCT is used either way, because the TurboJPEG interface that it calls chooses it by the quality alone. Pillow's encoder, which
# asks libjpeg-turbo for the accurate one, gives other bytes at the same quality and sampling, and pixels that differ by several grey
# levels. From quality 96 on the two libraries' pixels are the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check simplejpeg==1.9.0 Pillow==12.3.0 numpy==2.4.0
cat > "$folder/look.py" <<'PY'
import io, sys
import numpy as np
import simplejpeg
from PIL import Image

y, x = np.mgrid[0:240, 0:320]
waves = [128 + 90 * np.sin(x / (3 + c) + y / (7 - c)) + 30 * np.cos(x * y / (400 + 90 * c)) for c in range(3)]
image = np.clip(np.stack(waves, axis=-1), 0, 255).astype(np.uint8)


def by_pillow(quality):
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality, subsampling="4:4:4")
    return out.getvalue()


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


found = {}
for quality in (75, 90, 95, 96, 98):
    fast = simplejpeg.encode_jpeg(image, quality=quality, colorsubsampling="444", fastdct=True)
    accurate = simplejpeg.encode_jpeg(image, quality=quality, colorsubsampling="444", fastdct=False)
    off = int(np.abs(pixels(accurate) - pixels(by_pillow(quality))).max())
    found[quality] = (fast == accurate, off)
    print(f"quality {quality}: fastdct=True and False give {'the same' if fast == accurate else 'other'} bytes; {off} grey levels from Pillow's")
same = all(found[q][0] and found[q][1] >= 2 for q in (75, 90, 95)) and all(found[q][1] == 0 for q in (96, 98))
sys.exit(0 if same else 1)
PY
"$folder/venv/bin/python" "$folder/look.py" || { echo changed; exit 1; }
