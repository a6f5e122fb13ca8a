#!/usr/bin/env bash
# soundfile 0.14.0: a file that was cut off in the middle (a broken copy or download) is an error
# in FLAC and CAF alone. WAV, AIFF, AU, W64 and RF64 are corrected to what is left, header
# included, so nothing says that 40 % is gone; Ogg Vorbis reads as an empty array; an MP3 promises
# 16,000 samples and gives about 8,000.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 soundfile==0.14.0
"$work/venv/bin/python" - "$work" <<'PY'
import io

import numpy as np
import soundfile

noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
found = {}
for name in ("WAV", "AIFF", "AU", "W64", "RF64", "OGG", "MP3", "FLAC", "CAF"):
    file = io.BytesIO()
    subtype = {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(name, "PCM_16")
    soundfile.write(file, noise, 16_000, format=name, subtype=subtype)
    cut = file.getvalue()[: len(file.getvalue()) * 6 // 10]
    try:
        declared = soundfile.info(io.BytesIO(cut)).frames
        found[name] = declared, len(soundfile.read(io.BytesIO(cut))[0])
    except soundfile.LibsndfileError:
        found[name] = "error"
print("samples declared and read of 16,000, after 40 % of the bytes were lost:", found)
for name in ("WAV", "AIFF", "AU", "W64", "RF64"):
    declared, read = found[name]
    assert declared == read and 9_000 < read < 10_000, name
assert found["OGG"] == (0, 0)
assert found["MP3"][0] == 16_000 and found["MP3"][1] < 10_000
assert found["FLAC"] == found["CAF"] == "error"
PY
