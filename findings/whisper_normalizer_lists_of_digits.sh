#!/usr/bin/env bash
# whisper-normalizer 0.1.15 (and openai-whisper 20250625, which has the same code): a list of
# digits does not become the list of its words. "1, 2, 3" is "one 2 3" and "one, two, three" is
# "123", which by WER are 300 % apart; and "I won 1 one" reads as eleven. A sign is lost in digits
# ("-5" is 5) and kept in words ("minus five" is -5).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet jiwer==4.0.0 whisper-normalizer==0.1.15
"$work/venv/bin/python" - "$work" <<'PY'
import jiwer
from whisper_normalizer.english import EnglishTextNormalizer

normalise = EnglishTextNormalizer()
texts = ["one, two, three", "1, 2, 3", "I won 1 one", "-5", "minus five"]
found = {text: normalise(text) for text in texts}
rate = jiwer.wer(found[texts[0]], found[texts[1]])
print(found, "WER of the two lists:", rate)
assert found[texts[0]] == "123" and found[texts[1]] == "one 2 3" and rate == 3.0
assert found["I won 1 one"] == "i won 11"
assert found["-5"] == "5" and found["minus five"] == "-5"
PY
