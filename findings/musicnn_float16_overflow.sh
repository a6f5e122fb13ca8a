#!/usr/bin/env bash
# musicnn 0.1.0: the extractor casts the mel power to float16 and then multiplies it by 10,000,
# which float16 cannot hold: bands with more power than 6.55 become infinite. A sine at -20 dBFS,
# quieter than most music, is enough; the network is then given infinities. The three lines are
# the package's, which is checked for; its TensorFlow is not needed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 librosa==0.11.0
"$work/venv/bin/pip" install --quiet --no-deps musicnn==0.1.0
"$work/venv/bin/python" - "$work" <<'PY'
import importlib.util
from pathlib import Path

import librosa
import numpy as np

package = Path(importlib.util.find_spec("musicnn").origin).parent
source = (package / "extractor.py").read_text()
assert "astype(np.float16)" in source and "10000 *" in source, "the extractor has changed"
infinite = {}
for level in (-40, -20, -10):
    tone = 10 ** (level / 20) * np.sqrt(2) * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    power = librosa.feature.melspectrogram(
        y=tone.astype(np.float32), sr=16_000, hop_length=256, n_fft=512, n_mels=96
    )
    with np.errstate(over="ignore"):
        logs = np.log10(10_000 * power.astype(np.float16) + 1)
    infinite[level] = round(float(np.isinf(logs).mean()), 4)
print("share of infinite values, by dB RMS of a 440 Hz tone:", infinite)
assert infinite[-40] == 0 < infinite[-20] < infinite[-10]
PY
