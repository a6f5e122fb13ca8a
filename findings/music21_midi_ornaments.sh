#!/usr/bin/env bash
# music21 10.5.1: its MIDI export leaves out what makes a score music. Grace notes vanish, a trill
# is one held note, a fermata holds nothing, and a staccato note keeps its full length but gets
# louder (velocity 96 for 90). Repeats, ties, tempo words and dynamics are played.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pretty-midi==0.2.11.post0 music21==10.5.1
"$work/venv/bin/python" - "$work" <<'PY'
import sys
import warnings

import pretty_midi
from music21 import articulations, expressions, midi, note, stream

warnings.simplefilter("ignore")


def played(*notes):
    part = stream.Part()
    for each in notes:
        part.append(each)
    file = midi.translate.streamToMidiFile(part)
    file.open(f"{sys.argv[1]}/part.mid", "wb")
    file.write()
    file.close()
    heard = pretty_midi.PrettyMIDI(f"{sys.argv[1]}/part.mid").instruments[0].notes
    return [(n.pitch, round(float(n.end - n.start), 3), n.velocity) for n in heard]


def marked(mark):
    one = note.Note("C4")
    marks = one.articulations if isinstance(mark, articulations.Articulation) else one.expressions
    marks.append(mark)
    return played(one)


found = {
    "plain": played(note.Note("C4")),
    "grace": played(note.Note("B3").getGrace(), note.Note("C4")),
    "trill": marked(expressions.Trill()),
    "fermata": marked(expressions.Fermata()),
    "staccato": marked(articulations.Staccato()),
}
for name, notes in found.items():
    print(name, notes)
assert found["plain"] == found["grace"] == found["trill"] == found["fermata"] == [(60, 0.5, 90)]
assert found["staccato"] == [(60, 0.5, 96)]
PY
