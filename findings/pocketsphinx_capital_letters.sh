#!/usr/bin/env bash
# pocketsphinx 5.1.1: NGramModel.prob of a word in another case is that of an unknown word, and an
# unknown word is not minus infinity but the number -536870912 in logs of base 1.0001, -53,684
# nats, which adds up silently: one capital letter multiplies a sentence's perplexity beyond any
# float.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pocketsphinx==5.1.1
"$work/venv/bin/python" - "$work" <<'PY'
from pocketsphinx import NGramModel, get_model_path

model = NGramModel.readfile(get_model_path("en-us/en-us.lm.bin"))
found = {word: model.prob([word]) for word in ("hello", "Hello", "zzyzx")}
print(found)
assert found["Hello"] == found["zzyzx"] == -536870912 < found["hello"]
PY
