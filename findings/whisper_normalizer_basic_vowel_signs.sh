#!/usr/bin/env bash
# whisper-normalizer 0.1.15: BasicTextNormalizer, the one for every language but English, replaces
# combining vowel signs by spaces. A Hindi or Thai word falls apart into consonants: one word
# becomes two, two spellings that differ in a vowel alone become equal, and WER counts the pieces.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet whisper-normalizer==0.1.15
"$work/venv/bin/python" - "$work" <<'PY'
from whisper_normalizer.basic import BasicTextNormalizer

normalise = BasicTextNormalizer()
hindi, hindi_other, thai = "\u0915\u093f", "\u0915\u0940", "\u0e2a\u0e27\u0e31\u0e2a"
print({text: normalise(text) for text in (hindi, hindi_other, thai)})
assert normalise(hindi) == normalise(hindi_other), "ki and kii are told apart"
assert len(normalise(thai).split()) == 2, "one Thai syllable group stays whole"
PY
