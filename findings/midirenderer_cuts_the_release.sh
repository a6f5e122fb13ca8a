#!/usr/bin/env bash
# midirenderer 0.1.3: the rendering ends 2 ms after the last MIDI event. A note that is released
# there is cut in full sound, where a synthesiser lets it decay: the recording ends in a click
# unless silence is written after it. The softest velocity is rendered as digital silence, so
# notes that are in the score are not in the audio.
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


def render(velocity):
    score, piano = pretty_midi.PrettyMIDI(), pretty_midi.Instrument(0)
    piano.notes.append(pretty_midi.Note(velocity, 60, 0.0, 1.0))
    score.instruments.append(piano)
    score.write(f"{sys.argv[1]}/note.mid")
    data = midirenderer.render_wave_from(font, open(f"{sys.argv[1]}/note.mid", "rb").read())
    return soundfile.read(io.BytesIO(data))


wave, rate = render(100)
seconds, last, peak = len(wave) / rate, np.abs(wave[-rate // 100 :]).max(), np.abs(wave).max()
print(f"a note of 1 s lasts {seconds:.3f} s; its last 10 ms are at {last / peak:.2f} of its peak")
softest = float(np.abs(render(1)[0]).max())
print("peak of a note at velocity 1:", softest)
assert seconds < 1.01 and last > 0.1 * peak and softest == 0.0
PY
