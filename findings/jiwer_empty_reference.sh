#!/usr/bin/env bash
# jiwer 4.0.0: where nothing was to be said, wer() returns a count for a rate: wer("", "a b c") is
# 3, neither an error nor infinity. A mean over clips with an empty one in it is then a mean of
# rates and of numbers of words.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jiwer==4.0.0
"$work/venv/bin/python" - "$work" <<'PY'
import jiwer

found = [jiwer.wer("", heard) for heard in ("", "a", "a b c")]
print("WER against an empty reference:", found)
assert found == [0, 1, 3]
PY
