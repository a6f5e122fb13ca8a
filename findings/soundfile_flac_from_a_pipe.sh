#!/usr/bin/env bash
# soundfile 0.14.0: a FLAC that an encoder wrote to a pipe has no length in its header (0 means
# unknown, which the format allows). soundfile takes that for 2^63 - 1 samples: read() asks numpy
# for an array of that size and fails, and blocks() loses the last block, because it seeks after
# each one. Every other player plays such files whole.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 soundfile==0.14.0
"$work/venv/bin/python" - "$work" <<'PY'
import io

import numpy as np
import soundfile

file = io.BytesIO()
noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
soundfile.write(file, noise, 16_000, format="FLAC", subtype="PCM_16")
data = bytearray(file.getvalue())
# STREAMINFO begins at byte 8; the number of samples is the last 36 of its bytes 10 to 17.
data[21] &= 0xF0
data[22:26] = bytes(4)
frames = soundfile.info(io.BytesIO(data)).frames
try:
    soundfile.read(io.BytesIO(data))
    whole = "read"
except ValueError as error:
    whole = str(error).split(";")[0]
count = 0
try:
    with soundfile.SoundFile(io.BytesIO(data)) as stream:
        for block in stream.blocks(4_000):
            count += len(block)
except soundfile.LibsndfileError as error:
    print("blocks:", error)
print("declared:", frames, "| read():", whole, "| samples from blocks():", count)
assert frames == 2**63 - 1 and whole == "array is too big" and count == 12_000
PY
