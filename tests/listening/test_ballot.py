from collections import Counter
from itertools import combinations

import pytest

from calm_bench.errors import InputError
from calm_bench.listening.session import Asked, Ballot, ClipFiles, Session, Wanted, plan_session
from calm_bench.store.records import Row
from calm_bench.store.run_store import RunStore


def session(rows: int = 5, prompts: int = 8, per_rater: int = 10, **changes: object) -> Session:
    cells = [Row(cell_id=f"c{i}", label=f"C{i}", kind="system") for i in range(rows)]
    fields = {
        "session": "s",
        "run_id": "r",
        "benchmark": "b",
        "benchmark_version": 1,
        "question": "meaningfulness",
        "seed": 0,
        "per_rater": per_rater,
        "created": "now",
        "cells": cells,
        "items": [(f"p{i}", 0) for i in range(prompts)],
        "clips": {c.cell_id: [f"{c.cell_id}-{i}" for i in range(prompts)] for c in cells},
    }
    return Session.model_validate(fields | changes)


def asked_of(ballot: Ballot, raters: int) -> list[Asked]:
    return [asked for rater in range(raters) for asked in ballot.questions(rater)]


@pytest.mark.parametrize("prompts", [7, 8])
@pytest.mark.parametrize("per_rater", [3, 10])
def test_pairs_and_sides_are_balanced_however_many_come(prompts: int, per_rater: int) -> None:
    ballot = Ballot(session(prompts=prompts, per_rater=per_rater))
    for raters in (1, 4, 7, 30):
        asked = asked_of(ballot, raters)
        pairs = Counter(tuple(sorted(a.rows)) for a in asked)
        counts = [pairs[pair] for pair in combinations([f"c{i}" for i in range(5)], 2)]
        assert max(counts) - min(counts) <= 1
        for a, b in pairs:
            first = sum(x.rows == (a, b) for x in asked)
            assert abs(2 * first - pairs[a, b]) <= 2


def test_a_round_asks_every_pair_of_every_prompt_once() -> None:
    ballot = Ballot(session(rows=4, prompts=6, per_rater=9))
    assert len({(frozenset(a.rows), a.item) for a in asked_of(ballot, 4)}) == 36


def test_nobody_is_asked_twice_or_more_than_there_is() -> None:
    ballot = Ballot(session(rows=3, prompts=2, per_rater=100))
    assert ballot.length == 6
    for rater in range(3):
        asked = ballot.questions(rater)
        assert len({(frozenset(a.rows), a.item) for a in asked}) == len(asked) == 6


def test_the_order_is_seeded() -> None:
    def order(seed: int) -> tuple[Asked, ...]:
        return Ballot(session(seed=seed)).questions(3)

    assert order(0) == order(0) != order(1)
    assert Ballot(session()).questions(0) != Ballot(session()).questions(1)


def test_sound_is_scored_one_clip_at_a_time() -> None:
    asked = asked_of(Ballot(session(question="quality")), 10)
    assert {len(a.rows) for a in asked} == {1}
    counts = Counter(a.rows for a in asked)
    assert set(counts.values()) == {20}


def test_systems_and_reference_are_judged_where_all_have_a_clip(
    planned: tuple[Session, ClipFiles],
) -> None:
    found, files = planned
    assert [cell.cell_id for cell in found.cells] == ["reference", "rq-t0.8", "calm-t0.8"]
    assert found.items == (("dog", 0), ("cat", 0), ("fox", 0))
    assert files.left_out == 1  # the owl, which one row failed at
    assert all(path.is_file() for path in files.paths.values())


def test_rows_and_prompts_can_be_chosen(run_store: RunStore) -> None:
    wanted = Wanted(rows=("VAE round trip", "calm-t0.8"), n_prompts=2)
    found, _ = plan_session(run_store, wanted)
    assert [cell.cell_id for cell in found.cells] == ["vae_round_trip", "calm-t0.8"]
    assert found.items == (("dog", 0), ("cat", 0))
    with pytest.raises(InputError, match="needs two rows"):
        plan_session(run_store, Wanted(rows=("CALM",)))
