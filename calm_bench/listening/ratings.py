"""What listeners' votes say: Elo after the paper, mean opinions, intervals, and how far they agree.

Preferences follow Bradley and Terry, P(a beats b) = S_a / (S_a + S_b), a tie counting half a win to
each side; half ties shrink all gaps by about the share of ties. The paper's fit and its interval
are kept as they are, under its name. Its interval takes the votes a system won for all that is
known of it, and is too narrow; `gamma_coverage` measures by how much. Ours resamples what would be
new in another test, the listeners and the prompts, and speaks of Elo minus its mean over the
systems: the common level is settled by the prior and the number of sweeps, and says nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from calm_bench.types import Floats

PRIOR = 0.1
"""Shape and rate of the Gamma prior on every strength."""
SWEEPS = 30
RESAMPLES = 1000
CENTRE, SCALE = 2000.0, 400.0

Ints = NDArray[np.int64]


def win_matrix(pairs: Ints, scores: Floats, n_systems: int) -> Floats:
    """Each vote as a matrix that holds the winner's row and the loser's column, [V, K, K].

    Args:
        pairs: The two systems of each vote, [V, 2].
        scores: 1 where the first won, 0 where the second did, 1/2 for a tie, [V].
        n_systems: K.
    """
    wins = np.zeros((len(pairs), n_systems, n_systems))
    votes = np.arange(len(pairs))
    wins[votes, pairs[:, 0], pairs[:, 1]] = scores
    wins[votes, pairs[:, 1], pairs[:, 0]] = 1.0 - scores
    return wins


def strengths(wins: Floats, sweeps: int = SWEEPS) -> Floats:
    """The paper's fit: S ← (α + w) / (β + Σ_b n_ab / (S_a + S_b)), all at once, from S = 1.

    Args:
        wins: How often a beat b, ties half, [..., K, K].
        sweeps: The paper takes 30, which settle the differences but not the common level.

    Returns:
        [..., K].
    """
    meetings, won = wins + wins.swapaxes(-1, -2), wins.sum(axis=-1)
    found = np.ones(won.shape)
    for _ in range(sweeps):
        found = (PRIOR + won) / _rate(meetings, found)
    return found


def _rate(meetings: Floats, found: Floats) -> Floats:
    pairwise = found[..., :, None] + found[..., None, :]
    rate: Floats = PRIOR + (meetings / pairwise).sum(axis=-1)
    return rate


def elo(found: Floats) -> Floats:
    """Strengths on the paper's scale, 2000 + 400 log10 S."""
    out: Floats = CENTRE + SCALE * np.log10(found)
    return out


def centred_elo(wins: Floats) -> Floats:
    """Elo moved to a mean of 2000 over the systems: the level is arbitrary, [..., K]."""
    found = elo(strengths(wins))
    out: Floats = found - found.mean(axis=-1, keepdims=True) + CENTRE
    return out


def gamma_interval(wins: Floats) -> tuple[Floats, Floats]:
    """The paper's 95 % interval, quantiles of Gamma(α + w, β + Σ n / (S + S)): [..., K] each."""
    from scipy.special import gammaincinv

    rate = _rate(wins + wins.swapaxes(-1, -2), strengths(wins))
    shape = PRIOR + wins.sum(axis=-1)
    low, high = (elo(gammaincinv(shape, q) / rate) for q in (0.025, 0.975))
    return low, high


def gamma_coverage(wins: Floats, tie_share: float, seed: int) -> float:
    """How often the paper's 95 % interval holds the truth when a test like this one is repeated.

    The fitted strengths, scaled to sum to K, are taken for the truth; each repeat draws every
    meeting anew with this share of ties, and independently of listener and prompt: real votes are
    less independent, so that this flatters the interval.
    """
    rng = np.random.default_rng(seed)
    found = strengths(wins)
    truth = found * len(found) / found.sum()
    first, second = np.triu_indices(len(found), 1)
    meetings = np.rint((wins + wins.T)[first, second]).astype(np.int64)
    chance = truth[first] / (truth[first] + truth[second])
    ties = np.minimum(tie_share, 2 * np.minimum(chance, 1 - chance))
    outcomes = np.stack([chance - ties / 2, ties, 1 - chance - ties / 2], axis=-1)
    drawn = rng.multinomial(meetings, outcomes.clip(0, 1), size=(RESAMPLES, len(first)))
    score = drawn[..., 0] + drawn[..., 1] / 2  # [repeats, pairs]
    again = np.zeros((RESAMPLES, *wins.shape))
    again[:, first, second] = score
    again[:, second, first] = meetings - score
    low, high = gamma_interval(again)
    return float(((low <= elo(truth)) & (elo(truth) <= high)).mean())


def connected(wins: Floats) -> bool:
    """Whether a chain of meetings leads from every system to every other one."""
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(wins, directed=False)[0]) == 1


def mean_opinions(sums: Floats) -> Floats:
    """Means of scores, [..., 2 K] (sums, then counts) to [..., K]; NaN where nothing was scored."""
    total, count = np.split(sums, 2, axis=-1)
    means: Floats = total / np.where(count > 0, count, np.nan)
    return means


def two_way_errors(
    sums: Floats,
    groups: Sequence[Ints],
    statistic: Callable[[Floats], Floats],
    seed: int,
    resamples: int = RESAMPLES,
) -> Floats | None:
    """Half widths of the 95 % intervals of a statistic, over listeners and prompts alike, [K].

    Both are samples, and they cross, so neither can be resampled alone. Variances add up: that over
    listeners plus that over prompts, minus that over votes, which both contain (Cameron, Gelbach
    and Miller, 2011), and never less than the larger of the two. Few listeners are few degrees of
    freedom, hence Student's t.

    Args:
        sums: What each vote adds to the sums that the statistic is made of, [V, M].
        groups: Of each vote the number of its listener and that of its prompt, from 0, [V] each.
        statistic: From sums over votes, [..., M], to the numbers of interest, [..., K].
        seed: Of the resamples.
        resamples: How many of each kind.

    Returns:
        None with fewer than two listeners or prompts, who could not be told from the systems.
    """
    from scipy.special import stdtrit

    fewest = min(int(group.max(initial=-1)) + 1 for group in groups)
    if fewest < 2:
        return None
    rng = np.random.default_rng(seed)
    by_rater, by_item, by_vote = (
        _variance(sums, group, statistic, rng, resamples)
        for group in (*groups, np.arange(len(sums)))
    )
    variance = np.maximum(by_rater + by_item - by_vote, np.maximum(by_rater, by_item))
    out: Floats = stdtrit(fewest - 1, 0.975) * np.sqrt(variance)
    return out


def _variance(
    sums: Floats,
    group: Ints,
    statistic: Callable[[Floats], Floats],
    rng: np.random.Generator,
    resamples: int,
) -> Floats:
    """The bootstrap's variance over clusters with its small-sample factor G / (G − 1), [K]."""
    n = int(group.max()) + 1
    clusters = np.zeros((n, sums.shape[-1]))
    np.add.at(clusters, group, sums)
    counts = rng.multinomial(n, np.full(n, 1.0 / n), size=resamples).astype(np.float64)
    draws = np.ma.masked_invalid(statistic(counts @ clusters))
    variance: Floats = draws.var(axis=0, ddof=1).filled(0.0) * n / (n - 1)
    return variance


def agreement(units: Ints, values: Floats) -> float | None:
    """Krippendorff's alpha for scores on an even scale: 1 is full agreement, 0 what chance gives.

    Args:
        units: Number of what was judged, [V].
        values: The judgements, [V].

    Returns:
        None where nothing was judged twice, or all judgements are one and the same.
    """
    counts = np.bincount(units)[units]
    units, values, counts = units[counts > 1], values[counts > 1], counts[counts > 1]
    spread = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    if spread == 0.0:
        return None
    means = np.bincount(units, values) / np.maximum(np.bincount(units), 1)
    within = float(((values - means[units]) ** 2 * counts / (counts - 1)).sum())
    return 1.0 - (within / len(values)) / (spread / (len(values) - 1))
