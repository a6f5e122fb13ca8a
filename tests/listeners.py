"""Listeners as tests make them."""

import numpy as np

from calm_bench.listening.votes import Vote, VoteBook


def fill(book: VoteBook, raters: int, seed: int = 0) -> None:
    """Votes of listeners who prefer the reference, then CALM, with some noise."""
    rng, rank = np.random.default_rng(seed), {"reference": 2.0, "calm-t0.8": 0.5}
    for number in range(raters):
        name = f"listener {number}"
        book.welcome(name)
        while (asked := book.pending(name)) is not None:
            liking = [rank.get(cell, 0.0) + rng.normal() for cell in asked.rows]
            if book.session.paired:
                gap = liking[0] - liking[1]
                answer = "tie" if abs(gap) < 0.3 else "first" if gap > 0 else "second"
            else:
                answer = int(np.clip(round(3 + liking[0]), 1, 5))
            prompt_id, seed_index = book.session.items[asked.item]
            book.add(
                Vote(
                    rater=name,
                    number=len(book.votes[name]),
                    cells=asked.rows,
                    prompt_id=prompt_id,
                    seed_index=seed_index,
                    answer=answer,
                    heard=(1.0,) * len(asked.rows),
                    seconds=5.0,
                    at="2026-11-22T12:00:00+00:00",
                )
            )
