"""Shows how often the intervals of this package cover, by drawing from laws whose truth is known.

    python tests/core/prove.py                       2,000 repetitions (sets 500): 8 minutes
    python tests/core/prove.py --repetitions 200     the same, roughly
    python tests/core/prove.py --only WER --alone    one law, without the other methods beside ours
    python tests/core/prove.py --write               and its table into docs/intervals.md

It ends with 1 where an interval that bears no mark covers less than it should, or is too wide.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from calm_bench.core.cache import MemoryCache
from calm_bench.core.stats import compare, ratio_interval, summarise
from calm_bench.embeddings.base import Embedding
from calm_bench.metrics.fad import FadMetric
from calm_bench.metrics.kad import KadMetric
from calm_bench.metrics.vert import Vert
from calm_bench.types import Clip, Column, Estimate, TimedWord, Transcript

PAGE = Path(__file__).resolve().parents[2] / "docs" / "intervals.md"
SIZES = (8, 16, 32, 64)
REPETITIONS = 2000
RESAMPLES = 1000  # of the methods beside ours
HOLDS = 0.93
AT_LEAST = 0.90
WIDEST = 1.35
OTHERS = ("percentile", "expanded", "BCa", "Student's t", "Wilson")

Floats = np.ndarray[Any, np.dtype[np.float64]]
Rng = np.random.Generator
Sides = list[list[Floats]]
"""By side, the fields of clips, [repetitions, prompts, clips of a prompt]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """Where clips come from.

    Attributes:
        name: In words.
        draw: Fields of clips of a shape, by side.
        column: What is made of them.
        near_normal: As columns say it.
        clips: Of each prompt.
    """

    name: str
    draw: Callable[[Rng, tuple[int, ...]], Sides]
    aggregate: Any = "mean"
    near_normal: bool = False
    clips: int = 1

    @property
    def column(self) -> Column:
        """The column of clips like these."""
        unit = "%" if self.aggregate in ("share", "ratio") else ""
        fields = ("a", "b")[: 2 if self.aggregate in ("ratio", "exp_ratio") else 1]
        about = {"aggregate": self.aggregate, "near_normal": self.near_normal}
        return Column.of("x", self.name, unit, *fields, **about).model_copy(update={"scale": 1.0})

    @property
    def kind(self) -> str:
        """The kind of its column."""
        return "near-normal" if self.near_normal else str(self.aggregate)

    def value(self, sides: Sides) -> Floats:
        """The column's value over the last two axes."""
        found = [_value(self.aggregate, fields) for fields in sides]
        return found[0] - sum(found[1:])


def _value(aggregate: str, fields: Sequence[Floats]) -> Floats:
    if aggregate == "median":
        return np.median(fields[0].reshape(*fields[0].shape[:-2], -1), axis=-1)
    mean = [of.mean(axis=(-2, -1)) for of in fields]
    value = mean[0] / mean[1] if len(mean) == 2 else mean[0]
    return np.exp(value) if aggregate.startswith("exp") else value


def _one(draw: Callable[[Rng, tuple[int, ...]], Floats]) -> Callable[..., Sides]:
    return lambda rng, shape: [[draw(rng, shape)]]


def _ratings(rng: Rng, shape: tuple[int, ...]) -> Floats:
    """Like DNSMOS: bounded, a little skewed to the left."""
    return 1 + 4 * rng.beta(8, 4, shape)


def _words(rng: Rng, shape: tuple[int, ...], hard: Floats | float = 1.0) -> list[Floats]:
    """Errors and words of clips; 3 in 100 ran away."""
    words = 1.0 + rng.poisson(28, shape)
    rate = np.minimum(hard * rng.gamma(0.8, 0.16, shape), 1.5)
    rate = np.where(rng.random(shape) < 0.03, rng.uniform(0.6, 1.2, shape), rate)
    return [rng.poisson(words * rate).astype(float), words]


def _rare(rng: Rng, shape: tuple[int, ...]) -> Sides:
    """Errors that one clip in five has at all."""
    errors = np.where(rng.random(shape) < 0.2, rng.poisson(2, shape), 0)
    return [[errors.astype(float), 1.0 + rng.poisson(28, shape)]]


def _nats(rng: Rng, shape: tuple[int, ...]) -> Floats:
    """Loss a token, of which 6 clips in 100 are gibberish."""
    gibberish = rng.random(shape) < 0.06
    return np.where(gibberish, rng.normal(8.5, 0.8, shape), rng.normal(6.0, 0.45, shape))


def _pooled(rng: Rng, shape: tuple[int, ...]) -> Sides:
    tokens = 1.0 + rng.poisson(24, shape)
    return [[_nats(rng, shape) * tokens, tokens]]


def _clustered(rng: Rng, shape: tuple[int, ...], sd: float) -> Floats:
    """Normal values of clips that share their prompt's part."""
    return rng.normal(size=(*shape[:-1], 1)) + rng.normal(0.0, sd, shape)


def _paired(draw: Callable[..., Floats]) -> Callable[..., Sides]:
    """Two sides with what makes a prompt hard in common."""

    def sides(rng: Rng, shape: tuple[int, ...]) -> Sides:
        hard = rng.normal(size=shape)
        return [[draw(rng, hard)], [draw(rng, hard)]]

    return sides


def _paired_words(rng: Rng, shape: tuple[int, ...]) -> Sides:
    hard = rng.gamma(2.0, 0.5, shape)
    return [_words(rng, shape, hard), _words(rng, shape, 0.7 * hard)]


def _discordant(more: float, fewer: float) -> Callable[..., Sides]:
    """Events that one side alone has, and such that both have."""

    def sides(rng: Rng, shape: tuple[int, ...]) -> Sides:
        at = rng.random(shape)
        both = at > 0.9
        return [[(both | (at < more)) * 1.0], [(both | ((at >= more) & (at < more + fewer))) * 1.0]]

    return sides


def _times(rng: Rng, shape: tuple[int, ...]) -> Floats:
    """Logarithms of ratios of times: 2 % of noise, and something else running in 3 of 100."""
    disturbed = np.where(rng.random(shape) < 0.03, rng.exponential(0.3, shape), 0.0)
    return rng.normal(0.0, 0.02, shape) + disturbed


LAWS = (
    Law(name="mean, normal", draw=_one(lambda r, s: r.normal(size=s)), near_normal=True),
    Law(name="mean, ratings", draw=_one(_ratings), near_normal=True),
    Law(name="mean, Student's t (5)", draw=_one(lambda r, s: r.standard_t(5, s)), near_normal=True),
    Law(name="mean, exponential", draw=_one(lambda r, s: r.exponential(size=s)), near_normal=True),
    Law(
        name="mean, three clips a prompt",
        draw=_one(lambda r, s: _clustered(r, s, 0.7)),
        near_normal=True,
        clips=3,
    ),
    Law(
        name="paired difference, normal",
        draw=_paired(lambda r, hard: hard + r.normal(0.0, 0.5, hard.shape)),
        near_normal=True,
    ),
    Law(name="mean, lognormal (1)", draw=_one(lambda r, s: r.lognormal(size=s))),
    Law(
        name="paired difference, skewed",
        draw=lambda r, s: [[r.lognormal(size=s)], [0.7 * r.lognormal(0.0, 0.6, s)]],
    ),
    Law(name="WER, ratio of sums", draw=lambda r, s: [_words(r, s)], aggregate="ratio"),
    Law(name="rare errors, ratio of sums", draw=_rare, aggregate="ratio"),
    Law(name="paired difference of WER", draw=_paired_words, aggregate="ratio"),
    Law(name="PPX, 6 % gibberish", draw=_one(_nats), aggregate="exp_mean"),
    Law(name="PPX of pooled tokens", draw=_pooled, aggregate="exp_ratio"),
    Law(
        name="paired difference of PPX",
        draw=_paired(lambda r, hard: 0.2 * hard + _nats(r, hard.shape)),
        aggregate="exp_mean",
    ),
    Law(name="median, lognormal", draw=_one(lambda r, s: r.lognormal(size=s)), aggregate="median"),
    Law(
        name="difference of medians",
        draw=_paired(lambda r, hard: np.exp(hard + r.normal(0.0, 0.5, hard.shape))),
        aggregate="median",
    ),
    Law(name="ratio of times", draw=_one(_times), aggregate="median"),
    *(
        Law(
            name=f"share, {100 * p:g} %",
            draw=_one(lambda r, s, p=p: (r.random(s) < p) * 1.0),  # type: ignore[misc]
            aggregate="share",
        )
        for p in (0.02, 0.05, 0.3)
    ),
    Law(
        name="share, 14 %, two clips a prompt",
        draw=_one(lambda r, s: (_clustered(r, s, 1.0) > 1.5) * 1.0),
        aggregate="share",
        clips=2,
    ),
    Law(name="paired shares, 5 % each", draw=_discordant(0.05, 0.05), aggregate="share"),
    Law(name="paired shares, 12 and 2 %", draw=_discordant(0.12, 0.02), aggregate="share"),
)


@dataclass(slots=True, kw_only=True)
class Found:
    """What intervals of one law and size did.

    Attributes:
        covers: By method, how often the truth lay inside.
        widths: By method, their median.
        oracle: How wide one would be that knew the spread.
        marked: How often ours bore a mark.
        unmarked: How often the truth lay in one that bore none.
        atom: The chance of the likeliest value.
    """

    law: str
    kind: str
    n: int
    covers: dict[str, float] = field(default_factory=dict)
    widths: dict[str, float] = field(default_factory=dict)
    oracle: float = 0.0
    marked: float = 0.0
    unmarked: float = 1.0
    atom: float = 0.0
    repetitions: int = REPETITIONS

    def add(self, method: str, ends: Floats, truth: float) -> None:
        """Count intervals [repetitions, 2]; one that could not be made covers nothing."""
        inside = (ends[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= ends[:, 1])
        self.covers[method] = float(inside.mean())
        self.widths[method] = float(np.nanmedian(ends[:, 1] - ends[:, 0]))

    @property
    def slack(self) -> float:
        """Two standard errors of a coverage of 93 %."""
        return 2 * float(np.sqrt(HOLDS * (1 - HOLDS) / self.repetitions))

    def faults(self) -> Iterator[str]:
        """What is not as it should be, more than by chance."""
        ours, where = self.covers["ours"], f"{self.law}, {self.n}"
        if self.kind != "share" and self.unmarked < HOLDS - self.slack:
            yield f"{where}: {self.unmarked:.3f} of those without a mark cover"
        if self.kind == "share" and ours < 0.95 - self.atom - self.slack:
            yield f"{where}: {ours:.3f} cover, and an atom is {self.atom:.3f}"
        best = max(self.covers.get(name, 0.0) for name in OTHERS)
        if self.n >= 16 and ours < min(AT_LEAST, best) - self.slack:
            yield f"{where}: {ours:.3f} cover"
        if self.kind == "near-normal" and self.n >= 16 and self.width > WIDEST:
            yield f"{where}: {self.width:.2f} times as wide as the oracle's"

    @property
    def width(self) -> float:
        """Ours beside the oracle's."""
        return self.widths["ours"] / self.oracle


def ours(law: Law, sides: Sides, seed: int) -> list[Estimate]:
    """The package's interval of each repetition."""
    _, n, k = sides[0][0].shape
    groups = {f"p{i}/{j}": f"p{i}" for i in range(n) for j in range(k)}
    column = law.column
    found = []
    for at in range(len(sides[0][0])):
        if law.name == "ratio of times":
            pairs = np.exp(sides[0][0][at, :, 0]).tolist()
            found.append(ratio_interval(pairs, [1.0] * n, seed + at))
            continue
        clips = []
        for fields in sides:
            values = np.stack([of[at].ravel() for of in fields], axis=-1).tolist()
            named = [dict(zip(column.fields, each, strict=True)) for each in values]
            clips.append(dict(zip(groups, named, strict=True)))
        of = summarise if len(clips) == 1 else compare
        found.append(of(column, *clips, seed + at, groups))
    return found


def measured(law: Law, n: int, repetitions: int, *, alone: bool) -> Found:
    """What intervals of a law and size do."""
    rng = np.random.default_rng(sum(map(ord, law.name)) * 1000 + n)
    exact = law.value(law.draw(np.random.default_rng(1), (20, 100_000, law.clips)))
    truth = float(exact.mean())
    sides = law.draw(rng, (repetitions, n, law.clips))
    values = law.value(sides)
    if law.name == "ratio of times":
        truth, values = float(np.exp(truth)), np.exp(values)
    found = Found(law=law.name, kind=law.kind, n=n, repetitions=repetitions)
    estimates = ours(law, sides, n)
    ends = np.array([[np.nan if x is None else x for x in (e.low, e.high)] for e in estimates])
    found.add("ours", ends, truth)
    inside = (ends[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= ends[:, 1])
    marked = np.array([estimate.marked for estimate in estimates])
    found.marked = float(marked.mean())
    if not marked.all():
        found.unmarked = float(inside[~marked].mean())
    found.oracle = float(2 * 1.96 * values.std())
    found.atom = float(np.unique(values.round(9), return_counts=True)[1].max() / len(values))
    if not alone:
        for name, others in beside(law, sides, n).items():
            moved = np.exp(others) if law.name == "ratio of times" else others
            found.add(name, moved, truth)
    return found


def beside(law: Law, sides: Sides, n: int) -> dict[str, Floats]:
    """The intervals [repetitions, 2] of other methods, over prompts."""
    fields = [of.mean(axis=-1) for side in sides for of in side]
    width = len(sides[0])

    def statistic(*drawn: Floats, axis: int = -1) -> Floats:
        parts = [
            [of[..., None] for of in drawn[i : i + width]] for i in range(0, len(drawn), width)
        ]
        return law.value(parts)

    parts = [
        _bootstrapped(statistic, [f[at : at + 50] for f in fields], n)
        for at in range(0, len(fields[0]), 50)
    ]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if law.aggregate == "share" and len(sides) == law.clips == 1:
        counts = fields[0].sum(axis=1)
        tests = [scipy.stats.binomtest(round(k), n).proportion_ci(method="wilson") for k in counts]
        found["Wilson"] = np.array([[test.low, test.high] for test in tests])
    return found


def _bootstrapped(
    statistic: Callable[..., Floats], fields: list[Floats], n: int
) -> dict[str, Floats]:
    """Percentile, expanded percentile, BCa and Student's t of some repetitions."""
    about: dict[str, Any] = {"paired": True, "vectorized": True, "axis": -1, "rng": n}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # BCa of equal prompts is nan, and says so
        drawn = scipy.stats.bootstrap(
            fields, statistic, n_resamples=RESAMPLES, method="percentile", **about
        )
        bca = scipy.stats.bootstrap(
            fields, statistic, n_resamples=0, method="BCa", bootstrap_result=drawn, **about
        ).confidence_interval
        t = scipy.stats.t.ppf(0.025, n - 1)
        tail = scipy.stats.norm.cdf(np.sqrt(n / (n - 1)) * t)
        expanded = np.quantile(drawn.bootstrap_distribution, [tail, 1 - tail], axis=-1)
        value = statistic(*fields)
        without = np.stack(
            [statistic(*(np.delete(f, i, axis=-1) for f in fields)) for i in range(n)], axis=-1
        )
        error = np.sqrt((n - 1) * without.var(axis=-1))
    plain = drawn.confidence_interval
    return {
        "percentile": np.stack([plain.low, plain.high], axis=-1),
        "expanded": expanded.T,
        "BCa": np.stack([bca.low, bca.high], axis=-1),
        "Student's t": np.stack([value + t * error, value - t * error], axis=-1),
    }


class Rows(Embedding):
    """A wave is its vectors, 16 numbers each."""

    name, version, sample_rate, dim, min_seconds = "rows", "1", 100, 16, 0.16

    @property
    def recipe(self) -> dict[str, Any]:
        return {}

    def embed(self, waves: Sequence[Any]) -> list[Any]:
        return [wave.reshape(-1, 16) for wave in waves]


def _sounds(rng: Rng, n: int, shift: float, own: str) -> list[Clip]:
    """Clips of 10 vectors each, which have a part in common."""
    vectors = rng.normal(size=(n, 1, 16)) + 0.5 * rng.normal(size=(n, 10, 16)) + shift
    about = {"seed_index": 0, "sample_rate": 100, "prompt_seconds": 0.0}
    return [
        Clip(clip_id=f"{own}{i}", prompt_id=f"p{i:03}", wave=wave.ravel(), **about)
        for i, wave in enumerate(vectors.astype(np.float32))
    ]


def _spoken(rng: Rng, n: int) -> list[Clip]:
    """Clips of 25 words, some frequent; half of each is drawn from a few of its own."""
    clips, chances = [], 1 / np.arange(1, 201)
    for i in range(n):
        words = rng.choice(200, 25, p=chances / chances.sum())
        again = rng.random(25) < rng.beta(1, 3)
        words = np.where(again, rng.choice(words[:4], 25), words)
        heard = tuple(
            TimedWord(word=f"w{chr(97 + word // 20)}{chr(97 + word % 20)}", start=at, end=at + 0.1)
            for at, word in zip(np.arange(25) * 0.1 + 1, words, strict=True)
        )
        text = " ".join(word.word for word in heard)
        about = {"seed_index": 0, "sample_rate": 100, "prompt_seconds": 0.0}
        wave, said = np.zeros(500, dtype=np.float32), Transcript(text=text, words=heard)
        clips.append(
            Clip(clip_id=f"c{i}", prompt_id=f"p{i:03}", wave=wave, transcript=said, **about)
        )
    return clips


def measured_sets(n: int, repetitions: int) -> list[Found]:
    """What intervals of sets of n clips say of such sets, and those of FAD of all clips."""
    rng, found = np.random.default_rng(n), []
    for _ in range(repetitions):
        sounds = _sounds(rng, n, 0.25, "c"), _sounds(rng, n, 0.0, "r")
        one: dict[str, Estimate] = {}
        for metric in (FadMetric(Rows(), MemoryCache()), KadMetric(Rows(), MemoryCache())):
            one |= metric.score(*sounds).estimates
        found.append(one | Vert().score(_spoken(rng, n), []).estimates)
    rows = []
    for name, column, truth in (
        ("FAD, of sets of n clips", "fad", None),
        ("FAD, of all clips", "fad", 16 * 0.25**2),
        ("FAD∞, of all clips", "fad_inf", 16 * 0.25**2),
        ("KAD, of sets of n clips", "kad", None),
        ("VERT, of sets of n clips", "vert", None),
    ):
        row = Found(law=name, kind="set", n=n, repetitions=repetitions)
        estimates = [each[column] for each in found]
        values = np.array([e.value for e in estimates], dtype=float)
        ends = np.array([[e.low, e.high] for e in estimates], dtype=float)
        row.add("ours", ends, float(values.mean()) if truth is None else truth)
        row.oracle = float(2 * 1.96 * values.std())
        row.marked = float(np.mean([e.marked for e in estimates]))
        rows.append(row)
    return rows


def lines(rows: Sequence[Found]) -> Iterator[str]:
    """The table of docs/intervals.md."""
    yield "| law | n | ours | beside the oracle's width | " + " | ".join(OTHERS) + " |"
    yield "| :-- | --: |" + " --: |" * (2 + len(OTHERS))
    for row in rows:
        mark = "†" if row.marked > 0.5 else ""
        others = (row.covers.get(name) for name in OTHERS)
        texts = ["" if found is None else f"{found:.3f}" for found in others]
        fields = [row.law, str(row.n), f"{row.covers['ours']:.3f}{mark}", f"{row.width:.2f}"]
        yield f"| {' | '.join([*fields, *texts])} |"


def write(rows: Sequence[Found]) -> None:
    """Put the table between its marks."""
    before, _, rest = PAGE.read_text().partition("<!-- measured -->\n")
    after = rest.partition("<!-- /measured -->")[2]
    table = "\n".join(lines(rows))
    PAGE.write_text(f"{before}<!-- measured -->\n{table}\n<!-- /measured -->{after}")


def main() -> int:
    """Measure, print, and say what is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--only", default="", help="laws whose names hold this")
    parser.add_argument("--alone", action="store_true", help="without the other methods")
    parser.add_argument("--write", action="store_true", help=f"the table into {PAGE.name}")
    asked = parser.parse_args()
    logging.disable()  # FAD says that its sets are small
    rows: list[Found] = []
    for law in (law for law in LAWS if asked.only in law.name):
        rows += [measured(law, n, asked.repetitions, alone=asked.alone) for n in SIZES]
        say(rows[-len(SIZES) :])
    if asked.only in "FAD∞ KAD VERT":
        few = asked.repetitions // 4  # each of them takes a jackknife of eigenvalues
        sets = [measured_sets(n, few) for n in SIZES if n >= FadMetric.fewest_clips]
        rows += [row for name in zip(*sets, strict=True) for row in name]
        say(rows[-len(sets) * len(sets[0]) :])
    faults = [fault for row in rows for fault in row.faults()]
    sys.stdout.write("\n".join([*faults, f"{len(faults)} faults"]) + "\n")
    if asked.write:
        write(rows)
    return int(bool(faults))


def say(rows: Sequence[Found]) -> None:
    """Print some rows at once, with how many bore a mark."""
    for row, line in zip(rows, list(lines(rows))[2:], strict=True):
        marked = f" {100 * row.marked:.0f} % marked, of the others {row.unmarked:.3f} cover"
        sys.stdout.write(line + marked * (0 < row.marked < 1) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
