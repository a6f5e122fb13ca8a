#!/usr/bin/env bash
# soundfile 0.14.0: a 32-bit float WAV at an ordinary level, read with dtype="int16", is all
# zeros: samples are rounded, not scaled to 16 bits, although the same call scales a FLAC or a PCM
# WAV. A loader that asks for int16 hears silence.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 soundfile==0.14.0
"$work/venv/bin/python" - "$work" <<'PY'
import io

import numpy as np
import soundfile

tone = 0.4 * np.sin(np.arange(16_000) / 10)
peaks = {}
for subtype in ("PCM_16", "PCM_24", "FLOAT"):
    file = io.BytesIO()
    soundfile.write(file, tone, 16_000, format="WAV", subtype=subtype)
    file.seek(0)
    peaks[subtype] = int(np.abs(soundfile.read(file, dtype="int16")[0].astype(int)).max())
print("largest sample of one tone, read as int16:", peaks)
assert peaks["PCM_16"] > 13_000 and peaks["PCM_24"] > 13_000 and peaks["FLOAT"] == 0
PY
