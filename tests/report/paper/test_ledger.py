"""From stored rows to verdicts: pairing, orders, scales, recipes, and what is missing."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from calm_bench.errors import InputError
from calm_bench.numbers.speed import speed_rows
from calm_bench.report.paper.claims import Claim, load_claims
from calm_bench.report.paper.ledger import (
    Entry,
    Ledger,
    build_ledger,
    changes,
    ledger_csv,
    ledger_tables,
)
from calm_bench.report.paper.runs import StoredRun
from calm_bench.store.records import LatencyRecord
from calm_bench.store.results import UNFIT


def row(metric: str, model: str, steps: int | None = None) -> dict[str, Any]:
    return {"metric": metric, "model": model, "steps": steps}


def claim(measure: str, *rows: dict[str, Any], side: str = "below", **changes: Any) -> Claim:
    fields = {
        "id": "a",
        "section": "music",
        "says": "A is better than b.",
        "source": {"where": "here", "row": "a"},
        "measure": measure,
        "rows": rows,
        "side": side,
        "command": "calm-bench run music",
    }
    return Claim.model_validate(fields | changes)


def entries(found: Claim, *runs: StoredRun) -> list[Entry]:
    return list(build_ledger([found], runs).entries)


def of_recipe(found: list[Entry], by: str) -> Entry:
    return next(entry for entry in found if entry.by == by)


PAIR = ("difference", row("fad", "calm-music", 4), row("fad", "rq32-music"))
SPEED = ("value", row("overall_speedup", "calm-music", 4))


def test_the_runs_own_paired_difference_is_taken(music: StoredRun) -> None:
    found = of_recipe(entries(claim(*PAIR), music), "mel")
    assert (found.value, found.low, found.high) == (-3.3, -4.1, -2.5)
    assert found.paired is True
    assert found.verdict == "reproduced"


def test_a_pair_the_other_way_round_is_turned(music: StoredRun) -> None:
    turned = claim("difference", row("fad", "rq32-music"), row("fad", "calm-music", 4))
    found = of_recipe(entries(turned, music), "mel")
    assert (found.value, found.low, found.high) == (3.3, 2.5, 4.1)
    assert found.verdict == "contradicted"


def test_rows_that_are_not_paired_are_bounded_by_their_intervals(music: StoredRun) -> None:
    found = of_recipe(entries(claim(*PAIR), music), "whisper v1")
    assert found.low == pytest.approx(5.9 * 0.94 - 9.2 * 1.06)
    assert found.high == pytest.approx(5.9 * 1.06 - 9.2 * 0.94)
    assert found.paired is False
    assert "not pair" in (found.note or "")


def test_each_recipe_has_a_line_of_its_own(music: StoredRun) -> None:
    assert {entry.by for entry in entries(claim(*PAIR), music)} == {"mel", "whisper v1"}


def test_runs_of_the_same_clips_share_a_line(music: StoredRun) -> None:
    twin = replace(music, name="music-2")
    found = of_recipe(entries(claim(*PAIR), music, twin), "mel")
    assert found.run == "music-1, music-2"
    rows = [
        row.model_copy(update={"value": row.value and row.value + 1}) for row in music.results.rows
    ]
    other = replace(twin, results=music.results.model_copy(update={"rows": tuple(rows)}))
    lines = entries(claim(*PAIR), music, other)
    assert {entry.run for entry in lines} == {"music-1", "music-2"}


def test_a_claim_may_ask_for_a_recipe(music: StoredRun) -> None:
    (found,) = entries(claim(*PAIR, needs={"embedding": "vggish"}), music)
    assert found.verdict == "not measured"
    assert "needs embedding vggish; music-1 has embedding mel" in (found.note or "")
    assert found.command == "calm-bench run music"


def test_an_order_is_as_strong_as_its_weakest_link(music: StoredRun) -> None:
    rows = [row("fad", "calm-music", n) for n in (25, 50, 100)]
    rising = claim("order", *rows, side="above")
    found = of_recipe(entries(rising, music), "mel")
    assert found.value == pytest.approx(9.6 - 7.4)
    assert found.low == pytest.approx(9.6 * 0.94 - 7.4 * 1.06)
    assert found.verdict == "reproduced"
    # 10 and 25 steps overlap: one undecided link leaves the order open.
    tied = claim("order", *(row("fad", "trigflow-music", n) for n in (10, 25, 50)))
    found = of_recipe(entries(tied, music), "mel")
    assert found.verdict == "inconclusive"
    assert (found.n_needed or 0) > 64
    assert f"about {found.n_needed} clips" in (found.note or "")
    # One link wholly on the other side contradicts it, whatever the others say.
    rows = [row("fad", "calm-music", n) for n in (4, 10, 100)]
    wrong = claim("order", *rows, row("fad", "rq32-music"), side="above")
    assert of_recipe(entries(wrong, music), "mel").verdict == "contradicted"


def test_a_factor_is_judged_against_one(music: StoredRun) -> None:
    faster = claim(*SPEED, side="above", than=1)
    (found,) = entries(faster, music)
    assert found.verdict == "reproduced"
    assert found.n == 12
    number = {"text": "×9", "number": 9.0}
    (found,) = entries(faster.model_copy(update={"published": None}), music)
    (found,) = entries(
        claim(*SPEED, side="above", than=1, published=number),
        music,
    )
    assert found.verdict == "direction only"
    assert "×9 is not reached" in (found.note or "")


def test_a_number_without_an_interval_has_no_verdict(music: StoredRun) -> None:
    speed = row("overall_speedup", "rq32-music")
    (found,) = entries(claim("value", speed, side="above", than=1), music)
    assert found.verdict == "not measured"
    assert "has no interval" in (found.note or "")


def test_fad_over_time_is_first_and_last_segment(ablations: StoredRun) -> None:
    rows = (row("fad_last", "calm-music-none"), row("fad_first", "calm-music-none"))
    (found,) = entries(claim("difference", *rows, side="above"), ablations)
    assert found.value == pytest.approx(80.0 - 8.0)
    assert found.verdict == "reproduced"


def test_half_trained_is_the_last_checkpoint_before_half(ablations: StoredRun) -> None:
    rows = (row("fad_half_trained", f"calm-music{name}") for name in ("-no-multiplier", ""))
    (found,) = entries(claim("difference", *rows, side="above"), ablations)
    assert found.value == pytest.approx(21.0 - 12.0)


def test_random_weights_say_nothing_of_quality(make: SimpleNamespace) -> None:
    run = make.stored(make.music(), weights={"calm-music-tiny": None})
    (found,) = entries(claim(*PAIR), run)
    assert "the weights of calm-music-tiny are random" in (found.note or "")
    faster = claim(*SPEED, side="above", than=1)
    assert entries(faster, run)[0].verdict == "reproduced"


def test_times_of_an_unfit_machine_are_not_judged(make: SimpleNamespace) -> None:
    note = f"{UNFIT} by +9.0 % on this machine"
    run = make.stored(make.music().model_copy(update={"notes": (note,)}))
    faster = claim(*SPEED, side="above", than=1)
    ledger = build_ledger([faster], [run])
    assert "unfit" in (ledger.entries[0].note or "")
    assert any(note in text for text in ledger.notes)


def test_the_unfit_note_is_what_runs_write(make: SimpleNamespace) -> None:
    def record(round_: int, control: bool, ms: float) -> LatencyRecord:
        times = {stage: (int(ms * 1e6),) * 4 for stage in ("backbone", "head", "codec", "total")}
        return LatencyRecord(
            round=round_,
            cell_id=make.rq32.cell_id,
            order=0,
            control=control,
            stage_ns=times,
            first_audio_ns=1_000_000,
            frame_ns=40_000_000,
            device="CPU",
            dtype="float32",
            threads=1,
        )

    arms = [
        record(i, control, 2.0 if control else 1.0) for i in range(12) for control in (False, True)
    ]
    notes = speed_rows([make.rq32], arms).notes
    assert any(note.startswith(UNFIT) for note in notes)


def test_a_claim_about_the_papers_size_needs_that_size(music: StoredRun) -> None:
    (found,) = entries(claim(*PAIR, scales=["paper"]), music)
    assert (found.verdict, found.scale) == ("not measured", "paper")
    assert "music-1 is of scale tiny; the claim is about scale paper" in (found.note or "")


def test_a_selector_that_fits_two_rows_is_an_error(music: StoredRun) -> None:
    with pytest.raises(InputError, match="must say temp or steps"):
        entries(claim("difference", row("fad", "calm-music"), row("fad", "rq32-music")), music)


def test_what_is_missing_is_said_of_the_run_that_came_nearest(
    make: SimpleNamespace, music: StoredRun
) -> None:
    cell = make.system("calm-speech-tiny", "CALM")
    speech = make.stored(make.results("speech-1", "speech", [(cell, {"wer": make.around(20.0)})]))
    (found,) = entries(
        claim("difference", row("fad", "calm-music", 4), row("fad", "gone")), speech, music
    )
    assert found.note == "music-1 has no row gone"
    (found,) = entries(
        claim("difference", row("fad", "gone"), row("fad", "gone-too")), speech, music
    )
    assert found.note == "no stored run has fad of gone, gone-too"


def test_every_claim_has_a_line_and_every_line_a_verdict(
    music: StoredRun, ablations: StoredRun
) -> None:
    claims = load_claims()
    ledger = build_ledger(claims, [music, ablations])
    assert {entry.claim for entry in ledger.entries} == {found.id for found in claims}
    for entry in ledger.entries:
        assert (entry.verdict == "not measured") == (entry.low is None)
        assert entry.verdict != "not measured" or (entry.note and entry.command)
        assert entry.verdict == "not measured" or entry.scale == "tiny"
    assert sum(ledger.counts.values()) == len(ledger.entries)
    assert len(ledger_csv(ledger).splitlines()) == len(ledger.entries) + 1
    rows = sum(len(table.rows) for table in ledger_tables(ledger)[1:])
    assert rows == len(ledger.entries)


def test_changes_are_told(music: StoredRun) -> None:
    ledger = build_ledger([claim(*PAIR)], [music])
    assert changes(ledger, ledger) == []
    first, second = ledger.entries

    def altered(entry: Entry, **update: Any) -> Ledger:
        return ledger.model_copy(update={"entries": (entry.model_copy(update=update), second)})

    (text,) = changes(altered(first, verdict="contradicted"), ledger)
    assert text == "a (music-1, tiny): committed as contradicted, the stored runs say reproduced"
    (text,) = changes(altered(first, low=-9.0), ledger)
    assert "the committed numbers are not those" in text
    (text,) = changes(ledger.model_copy(update={"entries": (first,)}), ledger)
    assert "is not in the committed ledger" in text
    (text,) = changes(ledger, ledger.model_copy(update={"entries": (first,)}))
    assert "is no longer found" in text
