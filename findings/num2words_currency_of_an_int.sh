#!/usr/bin/env bash
# num2words 0.5.14: with to="currency" an int is taken for cents and a float for units.
# num2words(5, to="currency", currency="USD") is five cents, num2words(5.0, ...) five dollars:
# text normalised for speech synthesis or WER is wrong by a factor of a hundred wherever an amount
# has no decimals.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet num2words==0.5.14
"$work/venv/bin/python" - "$work" <<'PY'
from num2words import num2words

found = [num2words(amount, to="currency", currency="USD") for amount in (5, 5.0)]
print(found)
assert found == ["zero dollars, five cents", "five dollars, zero cents"]
PY
