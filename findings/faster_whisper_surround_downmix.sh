#!/usr/bin/env bash
# faster-whisper 1.2.1: decode_audio takes a WAV of several microphones for surround sound and
# mixes it as such. Of six equal channels the fourth, "LFE", is not heard at all, and of four the
# last is 6 dB below the third. Samples beyond full scale of a float WAV are clipped at 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 soundfile==0.14.0 faster-whisper==1.2.1
"$work/venv/bin/python" - "$work" <<'PY'
import io

import numpy as np
import soundfile
from faster_whisper.audio import decode_audio


def peak(wave):
    file = io.BytesIO()
    soundfile.write(file, wave.astype(np.float32), 16_000, format="WAV", subtype="FLOAT")
    file.seek(0)
    return float(np.abs(decode_audio(file)).max())


tone = np.sin(2 * np.pi * 300 * np.arange(16_000) / 16_000)
for n in (4, 6):
    heard = [round(peak(0.5 * tone[:, None] * (np.arange(n) == k)), 3) for k in range(n)]
    print(f"one microphone of {n} at 0.5 is heard at", heard)
    if n == 6:
        assert heard[3] == 0.0 and min(heard[:3]) > 0.05
    else:
        assert heard[3] < 0.6 * max(heard)
over = peak(2.0 * tone)
print("a tone of peak 2.0 is heard at", over)
assert over <= 1.0
PY
