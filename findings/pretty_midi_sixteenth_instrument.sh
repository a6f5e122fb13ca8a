#!/usr/bin/env bash
# pretty-midi 0.2.11.post0: the 16th melodic instrument is written, without a warning, on the
# channel of the first, with a program change of its own at time 0. pretty-midi reads both back by
# track, but a synthesiser goes by channel: through midirenderer 0.1.3 the trumpet that was first
# in the score is played as the flute that was 16th.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet \
  numpy==2.4.6 soundfile==0.14.0 pretty-midi==0.2.11.post0 midirenderer==0.1.3
"$work/venv/bin/python" - "$work" <<'PY'
import io
import os
import sys

import midirenderer
import numpy as np
import pretty_midi
import soundfile

font = os.path.join(os.path.dirname(pretty_midi.__file__), "TimGM6mb.sf2")
font = open(font, "rb").read()


def render(programs):
    """The first instrument plays one second from 0.5 s; the others whisper long after it."""
    score = pretty_midi.PrettyMIDI()
    for place, program in enumerate(programs):
        instrument = pretty_midi.Instrument(program)
        note = (1, 100, 3.0, 3.1) if place else (100, 60, 0.5, 1.5)
        instrument.notes.append(pretty_midi.Note(*note))
        score.instruments.append(instrument)
    score.write(f"{sys.argv[1]}/band.mid")
    data = midirenderer.render_wave_from(font, open(f"{sys.argv[1]}/band.mid", "rb").read())
    return soundfile.read(io.BytesIO(data))[0][:70_000].mean(axis=1)


trumpet, flute = 56, 73
heard = render([trumpet] + [0] * 14 + [flute])
likeness = {
    name: round(float(np.corrcoef(heard, render([program]))[0, 1]), 3)
    for name, program in (("trumpet", trumpet), ("flute", flute))
}
fifteen = float(np.corrcoef(render([trumpet] + [0] * 14), render([trumpet]))[0, 1])
print("first of 16, a trumpet, correlates with", likeness, "first of 15 with trumpet", fifteen)
assert fifteen > 0.99, "15 instruments are no longer played as written"
assert likeness["flute"] > 0.9 > likeness["trumpet"], "the 16th no longer changes the first"
PY
