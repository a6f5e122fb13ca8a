#!/usr/bin/env bash
# pretty-midi 0.2.11.post0: two overlapping notes of one pitch do not survive writing and reading.
# The first note's note-off ends both, so a note of 1 to 3 s comes back as 1 to 2 s: a humanised
# performance (held notes, repeated keys) is shortened in the file itself.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 pretty-midi==0.2.11.post0
"$work/venv/bin/python" - "$work" <<'PY'
import sys

import pretty_midi

written = [(0.0, 2.0), (1.0, 3.0)]
score, piano = pretty_midi.PrettyMIDI(), pretty_midi.Instrument(0)
piano.notes = [pretty_midi.Note(80, 60, *span) for span in written]
score.instruments.append(piano)
score.write(f"{sys.argv[1]}/overlap.mid")
read = pretty_midi.PrettyMIDI(f"{sys.argv[1]}/overlap.mid").instruments[0].notes
spans = [(float(note.start), float(note.end)) for note in read]
print("written", written, "read", spans)
assert spans == [(0.0, 2.0), (1.0, 2.0)]
PY
