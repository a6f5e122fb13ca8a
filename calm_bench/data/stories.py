"""A deterministic story grammar: short children's stories whose parts must agree over 10 to 40 s.

Each story draws one cast (hero, friend, pet, place, object, ...) and tells it through one story
shape. A shape is a list of beats; a beat is a list of sentences that may tell it. Because names,
animals, places and objects recur from beat to beat, a continuation can be right or wrong about them
long after they were introduced: that is what makes coherence measurable on a vocabulary of a few
hundred words.
"""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from calm_bench.config import parse, read_yaml
from calm_bench.data.corpus import Split
from calm_bench.types import StrictModel

GRAMMAR = Path(__file__).with_name("stories.yaml")
FIRST_TRAIN, FIRST_TEST = 512, 64
"""Training stories beyond these are drawn last, and test stories beyond these from a stream of
their own: more of either never move a story of another split."""
PAIRS = {
    "names": ("hero", "friend"),
    "places": ("place", "far_place"),
    "things": ("thing", "other_thing"),
    "foods": ("food", "other_food"),
}
"""Slots that are drawn in pairs that differ, in this order, before the others."""
SLOTS = (
    *("pet_name", "pet", "color", "size", "weather"),
    *("relative", "time", "wild", "material", "number"),
)
PRONOUNS = {"f": ("she", "her", "her"), "m": ("he", "him", "his")}


class Grammar(StrictModel):
    """What stories.yaml says: words by their kind, and of each shape the beats."""

    words: dict[str, list[str]]
    shapes: dict[str, list[list[str]]]


@cache
def grammar() -> Grammar:
    """The words and shapes of all stories."""
    return parse(Grammar, read_yaml(GRAMMAR), str(GRAMMAR))


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One story: its place in the split, and its sentences."""

    story_id: str
    split: Split
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole story as one line of plain English."""
        return " ".join(self.sentences)


def _draw_cast(rng: random.Random) -> dict[str, str]:
    """Draw every slot of a story once, so that each later mention repeats the same words."""
    words = grammar().words
    cast: dict[str, str] = {}
    for kind, slots in PAIRS.items():
        cast |= zip(slots, rng.sample(words[kind], 2), strict=True)
    cast |= {slot: rng.choice(words[slot]) for slot in SLOTS}
    for who, prefix in (("hero", ""), ("friend", "f_")):
        cast[who], gender = cast[who].split("/")
        forms = zip(("they", "them", "their"), PRONOUNS[gender], strict=True)
        cast |= {f"{prefix}{slot}": form for slot, form in forms}
    return cast


def tell_story(rng: random.Random) -> tuple[str, ...]:
    """The sentences of one story: draw a shape and a cast, then one sentence per beat."""
    shapes = grammar().shapes
    shape = rng.choice(sorted(shapes))
    cast = _draw_cast(rng)
    told = [rng.choice(beat).format(**cast) for beat in shapes[shape]]
    return tuple(text[0].upper() + text[1:] for text in told)


def more_texts(count: int, seed: int, known: Collection[str]) -> list[str]:
    """Texts of stories from a stream of their own: none twice, none of those known."""
    rng = random.Random(f"calm-bench more stories {seed}")
    texts: dict[str, None] = {}
    while len(texts) < count:
        text = " ".join(tell_story(rng))
        if text not in known:
            texts[text] = None
    return list(texts)


def write_stories(counts: Sequence[int], seed: int = 0) -> list[Story]:
    """Write the stories of all splits, every text unique across them.

    They come in the order train, validation, test, then training stories beyond the first 512 and
    test stories beyond the first 64: a larger corpus keeps the stories of the smaller. `counts` are
    of train, validation and test; the seed is the only source of randomness.
    """
    first = random.Random(f"calm-bench stories {seed}")
    later = random.Random(f"calm-bench test stories {seed}")
    stories: list[Story] = []
    seen: set[str] = set()
    train, validation, test = counts
    blocks: list[tuple[Split, range, random.Random]] = [
        ("train", range(min(train, FIRST_TRAIN)), first),
        ("validation", range(validation), first),
        ("test", range(min(test, FIRST_TEST)), first),
        ("train", range(FIRST_TRAIN, train), first),
        ("test", range(FIRST_TEST, test), later),
    ]
    for split, indices, stream in blocks:
        for index in indices:
            sentences = tell_story(stream)
            while " ".join(sentences) in seen:
                sentences = tell_story(stream)
            story = Story(story_id=f"{split}-{index:05d}", split=split, sentences=sentences)
            seen.add(story.text)
            stories.append(story)
    return stories
