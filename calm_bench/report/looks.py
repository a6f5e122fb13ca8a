"""How systems look: one colour and one marker each, in every plot, every figure and on the page.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; every system also has its
own marker and line, so that a print in grey can be read.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calm_bench.report.paper.runs import ModelName
from calm_bench.seeds import content_hash

GREY = "#6b6b6b"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
FILLS = ("full", "none", "left", "right", "top", "bottom")
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = {"o": "●○", "s": "■□", "^": "▲△", "D": "◆◇", "v": "▼▽", "P": "✚✛", "X": "✖✕"}
"""Matplotlib's, and the signs that stand for each in a text, filled and not."""

_PLACES = {
    "calm-speech": 0,
    "calm-music": 0,
    "rq-speech": 1,
    "rq32-music": 1,
    "trigflow-music": 2,
    "rq16-music": 3,
    "musicgen-music": 5,
    "calm-music-none": 8,
    "calm-music-no-noise": 9,
    "calm-music-no-multiplier": 10,
    "calm-music-no-short": 12,
}
"""The look of each system of this package, at any scale; what is ablated has markers of its own."""
_SPARE = [i for i in range(len(COLORS) ** 2) if i not in _PLACES.values()]
_FREE_COLORS = 2  # of the spare looks, the first that share a colour with none of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How the points of a line are drawn."""

    color: str
    marker: str = "o"
    line: Any = "-"
    fill: str = "full"

    @property
    def sign(self) -> str:
        """The marker as a character."""
        return _MARKERS[self.marker][self.fill != "full"]


def look(index: int, variant: int = 0) -> Look:
    """The look of one of many systems, and of its variants; no two of 49 systems look alike."""
    n, markers = len(COLORS), list(_MARKERS)
    return Look(
        color=COLORS[index % n],
        marker=markers[(index + index // n) % n],  # each lap of colours starts at another
        line=LINES[(index + variant) % len(LINES)],
        fill=FILLS[variant % len(FILLS)],
    )


def looks(models: Mapping[str, str]) -> dict[str, Look]:
    """The look of each name, by the model behind it; names of one model differ in filling."""
    places, seen, found = dict(_PLACES), Counter[str](), {}
    for name, model in models.items():
        base = ModelName.of(model).base
        if base not in places:
            # By its name, so that it looks alike in all runs, unless another one has that look.
            first = int(content_hash(base), 16) % _FREE_COLORS
            order = (*_SPARE[first:], *_SPARE[:first])
            places[base] = next((i for i in order if i not in places.values()), order[0])
        found[name] = look(places[base], seen[base])
        seen[base] += 1
    return found
