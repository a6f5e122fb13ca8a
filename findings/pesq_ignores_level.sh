#!/usr/bin/env bash
# pesq 0.0.4: a copy 60 dB quieter scores the highest possible 4.64 (the reference algorithm
# aligns levels), so a codec or model that comes out nearly mute is perfect by PESQ; an inverted
# copy likewise. Level has to be a number beside it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==1.26.4 pesq==0.0.4
"$work/venv/bin/python" - "$work" <<'PY'
import numpy as np
from pesq import pesq

rate = 16_000
time = np.arange(4 * rate) / rate
speechlike = 0.1 * np.random.default_rng(0).standard_normal(4 * rate)
speechlike *= 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time)
found = {
    gain: round(float(pesq(rate, speechlike, gain * speechlike, "wb")), 2) for gain in (1, 1e-3, -1)
}
print("PESQ by gain:", found)
assert set(found.values()) == {4.64}
PY
