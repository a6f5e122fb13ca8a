#!/usr/bin/env bash
# pyloudnorm 0.2.0: Meter's default filter ("K-weighting") reads low where "DeMan", in the same
# package, follows the standard: at 16 kHz, the rate of most speech data, white noise comes out
# 0.12 LU lower, at 8 kHz 0.22 LU, at 48 kHz 0.04 LU. EBU Tech 3341 allows 0.1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 scipy==1.17.1 pyloudnorm==0.2.0
"$work/venv/bin/python" - "$work" <<'PY'
import numpy as np
import pyloudnorm

gaps = {}
for rate in (8_000, 16_000, 48_000):
    noise = 0.1 * np.random.default_rng(0).standard_normal(4 * rate)
    default, de_man = (
        pyloudnorm.Meter(rate, filter_class=name).integrated_loudness(noise)
        for name in ("K-weighting", "DeMan")
    )
    gaps[rate] = round(float(de_man - default), 2)
print("DeMan minus default, LU, by rate:", gaps)
assert 0.18 < gaps[8_000] < 0.27 and 0.1 < gaps[16_000] < 0.15 and 0 < gaps[48_000] < 0.08
PY
