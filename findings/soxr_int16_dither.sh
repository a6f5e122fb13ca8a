#!/usr/bin/env bash
# soxr 1.1.0 (python-soxr): resampling int16 samples adds dither, so digital silence comes out as
# a noise of -1, 0 and 1, and "is it all zeros" no longer finds silent files; float32 silence
# stays silent.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 soxr==1.1.0
"$work/venv/bin/python" - "$work" <<'PY'
import numpy as np
import soxr

levels = {
    kind: np.unique(soxr.resample(np.zeros(16_000, kind), 16_000, 24_000)).tolist()
    for kind in ("int16", "float32")
}
print("levels of resampled silence:", levels)
assert levels == {"int16": [-1, 0, 1], "float32": [0.0]}
PY
