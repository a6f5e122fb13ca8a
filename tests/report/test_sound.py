import io
import re

import numpy as np
import pytest

from calm_bench.report.players import COLUMNS, SPECTROGRAM, outline, spectrogram_png

RATE = 16000


def tone(hertz: float, amplitude: float, seconds: float = 2.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def heights(wave: np.ndarray) -> list[int]:
    return [50 - int(y) for _, y in re.findall(r"M(\d+) (\d+)V\d+", outline(wave))]


def test_an_outline_is_drawn_to_one_scale() -> None:
    assert heights(tone(500, 1.0)) == [50] * COLUMNS
    assert set(heights(tone(500, 0.25))) == {25}
    assert heights(np.zeros(RATE, np.float32)) == [1] * COLUMNS
    half = heights(np.concatenate([tone(500, 1.0), np.zeros(2 * RATE, np.float32)]))
    assert (half[10], half[-10]) == (50, 1)
    assert len(heights(np.ones(7, np.float32))) == COLUMNS  # shorter than it is wide


@pytest.mark.parametrize("hertz", [500, 3000, 7000])
def test_a_spectrogram_shows_a_tone_at_its_height(hertz: float) -> None:
    from PIL import Image

    wave = np.concatenate([tone(hertz, 0.5), np.zeros(2 * RATE, np.float32)])
    image = Image.open(io.BytesIO(spectrogram_png(wave, RATE)))
    assert image.size == SPECTROGRAM
    level = np.asarray(image)  # palette numbers, 0 the darkest
    row = int(level[:, 50].argmax())
    assert 1 - (row + 0.5) / SPECTROGRAM[1] == pytest.approx(hertz / 8000, abs=0.02)
    assert level[row, 50] == 15
    assert level[:, -50].max() == 0


def test_the_same_clip_gives_the_same_bytes() -> None:
    assert spectrogram_png(tone(500, 0.5), RATE) == spectrogram_png(tone(500, 0.5), RATE)
