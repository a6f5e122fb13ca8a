"""The corpus of the speech codecs: stories and made-up words in seven voices.

A codec that was trained on one voice and a few hundred words gives back only those. Here Piper's
voice speaks as in the speech corpus, livelier and slower, and flite's four voices speak too; after
each story come sentences of made-up words, because the sounds of the stories follow one another in
few ways. The stories are training and validation stories of the speech corpus, so that no text of
its tests is heard.
"""

import random
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calm_bench.data import speech
from calm_bench.data.chunks import Lines, make_chunks, refuse_other_settings
from calm_bench.data.corpus import CorpusCard, Item, working_on, write_corpus
from calm_bench.data.stories import FIRST_TRAIN, Story
from calm_bench.errors import BenchError, InputError
from calm_bench.seeds import content_hash

CHUNK_TEXTS = 12
HELD_OUT = 2
MADE_UP_SENTENCES = 3

ONSETS = (
    "b bl br ch d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sh sk sl sm sn sp st str sw "
    "t th thr tr tw v w y z"
)
VOWELS = "a e i o u a e i o u ai ee oa oo ou ar er or"
CODAS = "b ck d ft g l lk lt m mp n nd ng nk nt p r sh sk st t th v x z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A voice: flite's of that name, or Piper's with other scales; and how much it speaks.

    Attributes:
        chunks: How many times twelve texts it speaks to train on.
    """

    name: str
    chunks: int
    scales: Mapping[str, float] | None = None


VOICES = (
    Voice(name="joe", chunks=6, scales=speech.VOICE),
    Voice(
        name="joe-lively",
        chunks=2,
        scales={**speech.VOICE, "noise_scale": 0.667, "noise_w_scale": 0.8, "length_scale": 1.0},
    ),
    Voice(
        name="joe-slow",
        chunks=1,
        scales={**speech.VOICE, "noise_scale": 0.667, "length_scale": 1.4},
    ),
    Voice(name="slt", chunks=4),
    Voice(name="rms", chunks=3),
    Voice(name="awb", chunks=3),
    Voice(name="kal16", chunks=2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one voice speaks at a time, and the seed of its noise."""

    voice: Voice
    seed: int
    stories: tuple[Story, ...]


def make_voices(
    out: Path, voices: Sequence[Voice] = VOICES, *, seed: int = 0, jobs: int | None = None
) -> CorpusCard:
    """Speak the corpus into a folder, `jobs` chunks at a time, and return its corpus.json.

    Finished chunks are kept, so a killed command goes on where it stopped. The seed is that of
    words and of Piper's noise.

    Raises:
        MissingExtraError: If Piper or its voice is not installed.
        InputError: If flite is not installed, or the folder holds other speech.
        BenchError: If a synthesiser fails or another process is working on the folder.
    """
    chunks = {f"{chunk.voice.name}-{chunk.seed:05d}": chunk for chunk in plan(voices, seed)}
    settings = {
        "seed": seed,
        "piper": speech.VOICE_PACKAGE,
        "flite": flite_version(),
        "voices": {one.name: [one.chunks, dict(one.scales or {})] for one in voices},
        "text_hash": content_hash([[s.text for s in c.stories] for c in chunks.values()]),
    }
    with working_on(out, "audio", "chunks"):
        refuse_other_settings(out, settings, (), "voices")
        lines = _speak(out, chunks, jobs)
        spoken = [
            ({"audio": line["audio"], "speaker": chunk.voice.name}, story)
            for name, chunk in chunks.items()
            for line, story in zip(lines[name], chunk.stories, strict=True)
        ]
        items = speech.list_spoken(out, spoken, jobs)
        return write_corpus(out, _in_turn(items), kind="speech", settings=settings)


def flite_version() -> str:
    """What flite calls itself.

    Raises:
        InputError: If it is not installed.
    """
    if shutil.which("flite") is None:
        raise InputError(
            "flite, which speaks four of the voices, is not installed: "
            "`sudo apt install flite`, or build it from https://github.com/festvox/flite"
        )
    told = subprocess.run(["flite", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version:[^\S\n]*(\S+)", told.stdout)
    if found is None:
        raise BenchError(
            f"`{shutil.which('flite')} --version` does not say which flite it is: install another"
        )
    return found[1]


def plan(voices: Sequence[Voice], seed: int) -> list[Chunk]:
    """Who speaks what, by voice; what one voice speaks does not hang on how much another does."""
    n = len(voices)
    needed = CHUNK_TEXTS * n * max(voice.chunks for voice in voices)
    stories = speech.Speech(train=max(FIRST_TRAIN, needed), seed=seed).stories()
    train = [story for story in stories if story.split == "train"]
    held_out = [story for story in stories if story.split == "validation"]
    chunks: list[Chunk] = []
    for i, voice in enumerate(voices):
        numbers = range(i, voice.chunks * n, n)
        parts = [train[CHUNK_TEXTS * k : CHUNK_TEXTS * (k + 1)] for k in numbers]
        parts.append(held_out[HELD_OUT * i : HELD_OUT * (i + 1)])
        for number, part in enumerate(parts[-1:] + parts[:-1]):
            rng = random.Random(f"calm-bench voices {seed} {voice.name} {number}")
            told = tuple(
                replace(
                    story,
                    story_id=f"{voice.name}-{story.story_id}",
                    sentences=(*story.sentences, *made_up(rng)),
                )
                for story in part
            )
            chunks.append(Chunk(voice=voice, seed=1000 * seed + number, stories=told))
    return chunks


def made_up(rng: random.Random) -> tuple[str, ...]:
    """Sentences of words that no one has heard, in syllables of English."""
    sentences = []
    for _ in range(MADE_UP_SENTENCES):
        words = [_word(rng) for _ in range(rng.randint(5, 9))]
        sentences.append(" ".join(words).capitalize() + rng.choice(".....?!"))
    return tuple(sentences)


def _word(rng: random.Random) -> str:
    n = rng.choice((1, 1, 2, 2, 3))
    syllables = [rng.choice(ONSETS.split()) + rng.choice(VOWELS.split()) for _ in range(n)]
    return "".join(syllables) + rng.choice(CODAS.split())


def _speak(out: Path, chunks: Mapping[str, Chunk], jobs: int | None) -> dict[str, Lines]:
    def job(name: str) -> dict[str, Any]:
        chunk = chunks[name]
        asked, scales = speech.speaking_job(out, chunk.stories, chunk.seed), chunk.voice.scales
        if scales is None:
            return {**asked, "voice": chunk.voice.name}
        return {**asked, "voice": str(speech.voice_path()), "settings": dict(scales)}

    stories = {name: chunk.stories for name, chunk in chunks.items()}
    return make_chunks(out, stories, speech.WORKER, speech.spoken_lines, job, jobs)


def _in_turn(items: Sequence[Item]) -> list[Item]:
    """The items with held-out ones last, one of each voice at a time: a few are of all voices."""
    held_out = [item for item in items if item.split == "validation"]
    turns = [held_out[n::HELD_OUT] for n in range(HELD_OUT)]
    train = [item for item in items if item.split == "train"]
    return train + [item for turn in turns for item in turn]
