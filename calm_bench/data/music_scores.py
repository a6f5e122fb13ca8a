"""Scores of music21's corpus as plain notes: who sounds when, in quarter notes from the start.

Parsing is slow (seconds for a quartet movement), so what was read is kept as JSON, one file a work.
music21 is imported inside, and nothing of it leaves this module.
"""

from pathlib import Path
from typing import Any

from calm_bench.core.files import replace
from calm_bench.core.paths import installed
from calm_bench.errors import InputError
from calm_bench.types import StrictModel

PLAYING = "playing the music corpus"
Note = tuple[float, float, int]
"""Onset and length in quarter notes, and the MIDI pitch as it sounds."""


class Score(StrictModel):
    """A work's parts, each a list of notes sorted by onset; parts without notes are left out."""

    title: str
    parts: tuple[tuple[Note, ...], ...]


def corpus_dir() -> Path:
    """The folder of the scores that music21 ships.

    Raises:
        MissingExtraError: If music21 is not installed.
    """
    return installed("music21", PLAYING, "data", "music21") / "corpus"


def read_score(path: str) -> Score:
    """Parse one work of music21's corpus.

    Args:
        path: Relative to the corpus; `book.abc#12` is the tune numbered 12 (X:12) of a collection.

    Raises:
        InputError: If the file cannot be parsed or holds no notes.
    """
    from music21 import converter

    file, _, number = path.partition("#")
    try:
        # The converter itself, since corpus.parse keeps pickles in a folder of its own choice.
        reader = converter.Converter()
        reader.parseFileNoPickle(corpus_dir() / file, number=int(number) if number else None)
        score: Any = reader.stream
        title = str(score.metadata.bestTitle or "") if score.metadata else ""
        streams = list(getattr(score, "parts", [])) or [score]
        parts = [_notes(part.toSoundingPitch().flatten()) for part in streams]
    except Exception as error:  # its parsers raise whatever the damage happens to trip over
        raise InputError(f"music21 cannot read {path}: {error or type(error).__name__}") from error
    if not any(parts):
        raise InputError(f"{path} holds no notes")
    return Score(title=title, parts=tuple(tuple(part) for part in parts if part))


def _notes(part: Any) -> list[Note]:
    """The sounding notes of a flat part: ties joined, grace notes and chord symbols left out."""
    found: list[Note] = []
    tied: dict[int, int] = {}  # pitch to the place in `found` of the note that is being held
    for element in part.notes:
        if "ChordSymbol" in element.classes or not element.quarterLength:
            continue
        onset, length = float(element.offset), float(element.quarterLength)
        members = element.notes if getattr(element, "isChord", False) else [element]
        for note in (note for note in members if hasattr(note, "pitch")):
            pitch = round(note.pitch.ps)
            kind = note.tie.type if note.tie else None
            held = tied.pop(pitch, None) if kind in ("stop", "continue") else None
            if held is not None and abs(sum(found[held][:2]) - onset) < 1e-3:
                found[held] = (found[held][0], onset + length - found[held][0], pitch)
            else:
                held = len(found)
                found.append((onset, length, pitch))
            if kind in ("start", "continue"):
                tied[pitch] = held
    return sorted((round(o, 4), round(n, 4), p) for o, n, p in found)


def kept_score(path: str, folder: Path) -> Score:
    """A score from `folder` if it was read before, else parsed and kept there.

    Raises:
        InputError: If the file cannot be parsed or holds no notes.
    """
    kept = folder / (path.replace("/", "--").replace("#", "--") + ".json")
    if kept.is_file():
        return Score.model_validate_json(kept.read_bytes())
    score = read_score(path)
    replace(kept, score.model_dump_json().encode())
    return score
