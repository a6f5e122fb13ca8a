"""Pairs of folders that sound alike, and such as do not."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import call

RATE = 16_000


def tune(seed: int, seconds: float = 3.0) -> np.ndarray:
    """Notes of a quarter of a second, loud and soft."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(RATE / 4)) / RATE
    notes = rng.uniform(150, 1500, round(4 * seconds))
    levels = rng.choice([0.05, 0.4], len(notes))
    return np.concatenate(
        [a * np.sin(2 * np.pi * f * t) for f, a in zip(notes, levels, strict=True)]
    )


def worse(wave: np.ndarray) -> np.ndarray:
    """Softer, later, duller and noisy: what a bad codec makes of it."""
    late = np.concatenate([np.zeros(800), wave])[: len(wave)]
    dull = np.convolve(late, np.ones(9) / 9, "same")
    return 0.5 * dull + np.random.default_rng(0).normal(0, 0.003, len(wave))


def scored(tmp_path: Path, clips: list[np.ndarray], originals: list[np.ndarray]) -> str:
    for name, waves in (("ours", clips), ("theirs", originals)):
        (tmp_path / name).mkdir()
        for index, wave in enumerate(waves):
            soundfile.write(tmp_path / name / f"{index}.wav", wave, RATE)
    line = ["score", tmp_path / "ours", "--reference", tmp_path / "theirs"]
    return call(*line, "--metrics", "fidelity", "--out", tmp_path / "run").text


@pytest.mark.parametrize("n", [2, 5, 20])
def test_folders_whose_pairs_are_shuffled_are_said_to_look_unrelated(
    tmp_path: Path, n: int
) -> None:
    originals = [tune(seed) for seed in range(n)]
    clips = [worse(wave) for wave in (*originals[1:], originals[0])]
    assert "the pairs look unrelated" in scored(tmp_path, clips, originals)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_versions_of_their_originals_raise_no_word(tmp_path: Path, n: int) -> None:
    originals = [tune(seed) for seed in range(n)]
    clips = [worse(wave) for wave in originals]
    assert "unrelated" not in scored(tmp_path, clips, originals)


def test_originals_that_sound_the_same_tell_nothing(tmp_path: Path) -> None:
    originals = [tune(0)] * 4
    assert "unrelated" not in scored(tmp_path, [worse(wave) for wave in originals], originals)


def test_other_recordings_of_the_same_names_look_unrelated(tmp_path: Path) -> None:
    clips, originals = ([tune(seed + at) for seed in range(12)] for at in (0, 100))
    assert "the pairs look unrelated" in scored(tmp_path, clips, originals)
