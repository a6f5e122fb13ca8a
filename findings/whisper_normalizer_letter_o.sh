#!/usr/bin/env bash
# whisper-normalizer 0.1.15: an O before an apostrophe is read as the digit zero: "Mr. O'Brien"
# becomes "mister 0 brien", and "ten o'clock" "100 clock", so a recogniser that writes OBrien or
# oclock is charged several words. And every "St." is a saint: "Main St." becomes "main saint",
# which never matches "main street".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet whisper-normalizer==0.1.15
"$work/venv/bin/python" - "$work" <<'PY'
from whisper_normalizer.english import EnglishTextNormalizer

normalise = EnglishTextNormalizer()
found = {text: normalise(text) for text in ("Mr. O'Brien", "ten o'clock", "12 Main St.")}
print(found)
assert found == {
    "Mr. O'Brien": "mister 0 brien",
    "ten o'clock": "100 clock",
    "12 Main St.": "12 main saint",
}
PY
