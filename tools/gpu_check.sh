#!/usr/bin/env bash
# What a GPU is measured for, in under ten minutes: loader rates, DALI's settings swept, training, short real runs.
# Whether it computes the right images is tested by: pytest -m gpu
#
#   tools/gpu_check.sh OUT [--sets DIR] [--only STAGES] [--seconds N] [--without-dali]     tools/gpu_check.sh --help
#   tools/gpu_check.sh OUT --device cpu --tiny      the check itself, on a machine without a GPU; its figures mean nothing
#
# Needs CUDA, this checkout with what it depends on, DALI, and no network. Writes one JSON record a stage to OUT, again after every
# measurement; bench/README.md says what they hold. PYTHON names another interpreter than .venv/bin/python or python3.
# Exits with 0 where nothing failed, 1 where something failed, 2 where it could not begin.
set -euo pipefail

home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
refuse() {
    echo "gpu_check: $1" >&2
    exit 2
}

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -x "$home/.venv/bin/python" ]; then PYTHON=$home/.venv/bin/python; fi
fi
command -v "$PYTHON" >/dev/null || refuse "no Python: $PYTHON is not there; make install, or name one with PYTHON=…"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || refuse "$PYTHON is older than Python 3.11; name another with PYTHON=…"
export PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

"$PYTHON" - "$@" <<'PY' || exit 2
import importlib.util
import sys

words = " ".join(sys.argv[1:]).replace("=", " ").split()
if not words or {"-h", "--help"} & set(words):
    sys.exit()
modules = "torch timm cv2 simplejpeg PIL numpy pandas pyarrow safetensors tensorboard tqdm".split()
if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
    sys.exit(f"gpu_check: {sys.executable} has no {', '.join(missing)}: make install, or pip install -e '.[all]' in this checkout")
from fastfashion.load.crops import is_native

if not is_native():
    print("gpu_check: load/_native is not built, threads and resident will be slower: pip install -e . builds it", file=sys.stderr)
if "cpu" not in words[1:]:
    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        sys.exit(
            f"gpu_check: no CUDA device: torch {torch.__version__}, {built}, sees none; look at nvidia-smi and CUDA_VISIBLE_DEVICES. "
            "To try the check itself without one: --device cpu --tiny"
        )
if "--without-dali" not in words:
    try:
        import nvidia.dali
    except Exception as error:  # a library of the driver may be missing
        sys.exit(
            f"gpu_check: DALI cannot be imported ({error}): pip install 'fastfashion[cuda12]', or cuda13 beside a torch for CUDA 13, "
            "never both. To measure the other backends alone: --without-dali"
        )
PY

exec "$PYTHON" "$home/bench/gpu.py" "$@"
