#!/usr/bin/env bash
# jiwer 4.0.0: the default transforms of wer() collapse runs of blanks, but a tab or a line break
# does not separate words. "a<TAB>b" against "a b", which any reader of a transcript file calls
# equal, is a WER of 200 %.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jiwer==4.0.0
"$work/venv/bin/python" - "$work" <<'PY'
import jiwer

rates = {gap: jiwer.wer(f"a{gap}b", "a b") for gap in ("  ", "\t", "\n")}
print(rates)
assert rates == {"  ": 0.0, "\t": 2.0, "\n": 2.0}
PY
