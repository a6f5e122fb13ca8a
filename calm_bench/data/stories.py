"""A deterministic story grammar: short children's stories whose parts must agree over 10 to 40 s.

Each story draws one cast (hero, friend, pet, place, object, ...) and tells it through one story
shape. A shape is a list of beats; a beat is a list of sentences that may tell it. Because names,
animals, places and objects recur from beat to beat, a continuation can be right or wrong about them
long after they were introduced: that is what makes coherence measurable on a vocabulary of a few
hundred words.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from calm_bench.data.story_shapes import SHAPES, WORDS

SPLITS = ("train", "validation", "test")
FIRST_TRAIN = 512
"""Training stories beyond these are drawn last: more of them never move the held-out ones."""
SLOTS = ("pet", "color", "size", "weather", "relative", "time", "wild", "material", "number")
"""Slots that are drawn alone, in this order; the others are drawn in pairs that differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One story: its place in the split, the shape that told it, and its sentences."""

    story_id: str
    split: str
    shape: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole story as one line of plain English."""
        return " ".join(self.sentences)


def _pronouns(gender: str, prefix: str) -> dict[str, str]:
    she = gender == "f"
    forms = {
        "they": "she" if she else "he",
        "them": "her" if she else "him",
        "their": "her" if she else "his",
    }
    return {prefix + slot: form for slot, form in forms.items()}


def _draw_cast(rng: random.Random) -> dict[str, str]:
    """Draw every slot of a story once, so that each later mention repeats the same words."""
    hero, friend = rng.sample(WORDS["names"], 2)
    place, far_place = rng.sample(WORDS["places"], 2)
    thing, other_thing = rng.sample(WORDS["things"], 2)
    food, other_food = rng.sample(WORDS["foods"], 2)
    cast = {
        "hero": hero.split("/")[0],
        "friend": friend.split("/")[0],
        "pet_name": rng.choice(WORDS["pet_names"]),
        "place": place,
        "far_place": far_place,
        "thing": thing,
        "other_thing": other_thing,
        "food": food,
        "other_food": other_food,
    }
    for slot in SLOTS:
        cast[slot] = rng.choice(WORDS[slot])
    cast |= _pronouns(hero.split("/")[1], "")
    cast |= _pronouns(friend.split("/")[1], "f_")
    return cast


def _sentence(template: str, cast: dict[str, str]) -> str:
    text = template.format(**cast)
    return text[0].upper() + text[1:]


def tell_story(rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """Tell one story: draw a cast and a shape, then one sentence per beat.

    Returns:
        The shape's name and the sentences in order.
    """
    shape = rng.choice(sorted(SHAPES))
    cast = _draw_cast(rng)
    return shape, tuple(_sentence(rng.choice(beat), cast) for beat in SHAPES[shape])


def write_stories(counts: Sequence[int], seed: int = 0) -> list[Story]:
    """Write the stories of all splits, every text unique across them.

    They come in the order train, validation, test, and then what training stories there are beyond
    the first 512: a larger corpus keeps the held-out stories and the prompts cut from them.

    Args:
        counts: How many stories for train, validation and test, in this order.
        seed: The only source of randomness; the same seed gives the same stories.
    """
    rng = random.Random(f"calm-bench stories {seed}")
    stories: list[Story] = []
    seen: set[str] = set()
    train, *held_out = counts
    first = [range(min(train, FIRST_TRAIN)), *map(range, held_out)]
    blocks = [*zip(SPLITS, first, strict=True), ("train", range(FIRST_TRAIN, train))]
    for split, indices in blocks:
        for index in indices:
            shape, sentences = tell_story(rng)
            while " ".join(sentences) in seen:
                shape, sentences = tell_story(rng)
            story = Story(
                story_id=f"{split}-{index:05d}", split=split, shape=shape, sentences=sentences
            )
            seen.add(story.text)
            stories.append(story)
    return stories
