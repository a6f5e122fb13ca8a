"""From stored rows to verdicts: pairing, orders, scales, recipes, and what is missing."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from rows import system, with_values
from scipy import stats
from stored_runs import CALM, RQ32, around, make_results, make_run, music_results, stored

from calm_bench.errors import InputError
from calm_bench.report.paper.claims import Claim, load_claims
from calm_bench.report.paper.ledger import (
    Evidence,
    Line,
    build_ledger,
    ledger_csv,
    ledger_tables,
)
from calm_bench.report.paper.measure import Missing, level_reach, number_of
from calm_bench.report.paper.runs import StoredRun
from calm_bench.store.results import UNFIT, Pooled, Value


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


def line(found: Claim, *runs: StoredRun) -> Line:
    (line,) = build_ledger([found], runs).lines
    return line


def evidence(found: Claim, *runs: StoredRun) -> list[Evidence]:
    return list(line(found, *runs).evidence)


def of_recipe(found: list[Evidence], by: str) -> Evidence:
    return next(one for one in found if one.by == by)


ONCE = "direction only (one training)"
AGAINST = "other direction (one training)"
PAIR = ("difference", row("fad", "calm-music", 4), row("fad", "rq32-music"))
SPEED = ("value", row("overall_speedup", "calm-music", 4))


def test_the_runs_own_paired_difference_is_taken(music: StoredRun) -> None:
    found = of_recipe(evidence(claim(*PAIR), music), "mel")
    assert (found.value, found.low, found.high) == (-3.3, -4.1, -2.5)
    assert found.paired is True
    assert found.verdict == ONCE
    assert found.trainings == 1


def test_a_pair_the_other_way_round_is_turned(music: StoredRun) -> None:
    turned = claim("difference", row("fad", "rq32-music"), row("fad", "calm-music", 4))
    found = of_recipe(evidence(turned, music), "mel")
    assert (found.value, found.low, found.high) == (3.3, 2.5, 4.1)
    assert found.verdict == AGAINST


def test_rows_that_are_not_paired_are_bounded_by_their_intervals(music: StoredRun) -> None:
    found = of_recipe(evidence(claim(*PAIR), music), "whisper v1")
    assert found.low == pytest.approx(5.9 * 0.94 - 9.2 * 1.06)
    assert found.high == pytest.approx(5.9 * 1.06 - 9.2 * 0.94)
    assert found.paired is False
    assert "not pair" in (found.note or "")


def test_every_recipe_is_evidence_for_one_line(music: StoredRun) -> None:
    found = line(claim(*PAIR), music)
    assert {one.by for one in found.evidence} == {"mel", "whisper v1"}
    assert found.verdict == ONCE
    assert found.family == "exploratory"


def test_ears_that_disagree_are_mixed() -> None:
    rows = [(CALM[4], {"fad": around(5.0)}), (RQ32, {"fad": around(9.0)})]
    results = make_results("a", "music", rows, instruments=("mel", "whisper v1"))
    far_at = ("fad-mel", CALM[4].cell_id)
    far = {"value": 19.0, "low": 18.0, "high": 20.0}
    results = with_values(results, lambda v: (v.recipe_id, v.cell_id) == far_at, **far)
    found = line(claim(*PAIR), stored(results))
    assert {one.verdict for one in found.evidence} == {ONCE, AGAINST}
    assert found.verdict == "mixed"


def test_runs_of_the_same_clips_share_their_evidence(music: StoredRun) -> None:
    twin = replace(music, name="music-2")
    found = of_recipe(evidence(claim(*PAIR), music, twin), "mel")
    assert found.run == "music-1, music-2"
    rows = [
        row.model_copy(update={"value": row.value and row.value + 1}) for row in music.results.rows
    ]
    other = replace(twin, results=music.results.model_copy(update={"rows": tuple(rows)}))
    lines = evidence(claim(*PAIR), music, other)
    assert {entry.run for entry in lines} == {"music-1", "music-2"}


def test_a_number_counts_at_its_size_and_through_its_instrument() -> None:
    number = {"text": "-3", "number": (-3.0, 1.5), "by": "vggish"}
    seeds = (0, 1, 2)

    def verdict(scale: str, by: str) -> str:
        rows = trained(seeds, {"calm": (6.0, 6.1, 5.9), "rq32": (9.0, 9.1, 8.9)}, scale)
        run = make_run(rows, paired(rows, seeds, (-3.0, -2.9, -3.1)), instruments=(by,))
        return line(claim(*PAIR, published=number), run).verdict

    assert verdict("paper", "vggish") == "reproduced"
    assert verdict("tiny", "vggish") == verdict("paper", "mel") == "direction only"


def trained(seeds: Sequence[int], fads: dict[str, Sequence[float]], scale: str) -> list[Any]:
    """Rows of CALM and RQ in several trainings."""
    rows = []
    for name, values in fads.items():
        for seed, fad in zip(seeds, values, strict=True):
            at = f"@seed{seed}" if seed else ""
            name_and_label = f"{name}-music-{scale}{at}", f"{name}, training {seed}"
            rows.append((system(*name_and_label, steps=4, training=seed), {"fad": around(fad)}))
    return rows


def paired(
    rows: list[Any], seeds: Sequence[int], values: Sequence[float], reach: float = 0.1
) -> list[Any]:
    by_seed = [[row for row, _ in rows if row.training == seed] for seed in seeds]
    return [
        (a, b, "fad", (value, value - reach, value + reach))
        for (a, b), value in zip(by_seed, values, strict=True)
    ]


def test_several_trainings_are_one_piece_of_evidence_with_their_spread() -> None:
    seeds = (0, 1, 2)
    rows = trained(seeds, {"calm": (5.0, 6.0, 7.0), "rq32": (9.0, 9.0, 9.0)}, "tiny")

    def found(*values: float) -> Evidence:
        (one,) = evidence(claim(*PAIR), make_run(rows, paired(rows, seeds, values)))
        return one

    one = found(-4.0, -3.0, -2.0)
    assert (one.trainings, one.spread, one.value) == (3, pytest.approx(1.0), pytest.approx(-3.0))
    # Student's over three, and a little for the prompts.
    reach = stats.t.ppf(0.975, 2) / 3**0.5
    assert one.high == pytest.approx(-3.0 + reach, abs=0.01)
    assert one.ours == "6.00 against 9.00: −3.00"
    assert one.verdict == "direction only"
    assert "detectable with 3 / 5 / 10 trainings: 3.2" in (one.note or "")
    # Each training by itself leaves zero, in both directions.
    open_ = found(-4.0, -1.0, 2.0)
    assert open_.verdict == "inconclusive"
    assert "more than 50 trainings would show the observed effect with 80 %" in (open_.note or "")
    far = found(4.0, 4.1, 3.9)
    assert far.verdict == "contradicted"


def test_clips_are_of_the_prompts_that_there_are() -> None:
    seeds = (0, 1)
    rows = trained(seeds, {"calm": (6.0, 6.1), "rq32": (9.0, 9.1)}, "tiny")

    def found(n: int, prompts: int) -> Evidence:
        run = make_run(rows, paired(rows, seeds, (-3.0, -2.9)), n=n)
        options = {"prompts": list(range(prompts)), "seeds": 3}
        known = run.manifest.model_copy(update={"options": options})
        (one,) = line(claim(*PAIR), replace(run, manifest=known)).evidence
        return one

    assert found(5, 2).n == 2  # of three draws each, of which one failed
    assert 0.0 < found(5, 2).p < 1.0
    assert found(64, 64).n == 64  # recordings, which count once however often they are drawn


def broken(run: StoredRun, *rows: str) -> StoredRun:
    """The run, had whisper not heard these rows."""
    lost = {"value": None, "low": None, "high": None, "n": 0, "reason": "whisper broke"}
    by_whisper = {(row, "fad-whisper") for row in rows}
    results = with_values(run.results, lambda v: (v.cell_id, v.recipe_id) in by_whisper, **lost)
    return replace(run, results=results)


def test_an_ear_that_heard_less_says_so() -> None:
    rows = trained((0, 1, 2), {"calm": (5.0, 6.0, 7.0), "rq32": (9.0, 9.1, 9.2)}, "tiny")
    run = make_run(rows, instruments=("mel", "whisper"))
    names = [row.cell_id for row, _ in rows]
    found = {one.by: one for one in evidence(claim(*PAIR), broken(run, names[2]))}
    assert {by: one.trainings for by, one in found.items()} == {"mel": 3, "whisper": 2}
    assert [found[by].ours.partition(" ")[0] for by in ("mel", "whisper")] == ["6.00", "5.50"]
    assert f"without training 2: fad of {names[2]}: whisper broke" in (found["whisper"].note or "")
    assert "without" not in (found["mel"].note or "")
    (alone,) = evidence(claim(*PAIR), broken(run, *names))
    assert f"without whisper: fad of {names[0]}: whisper broke" in (alone.note or "")


def test_a_number_that_is_missing_is_never_nought() -> None:
    lacking = Value(cell_id="calm-1", system="CALM", metric="fad", value=None, reason="ear broke")
    with pytest.raises(Missing, match="fad of calm-1: ear broke"):
        number_of(lacking)
    with pytest.raises(Missing, match="ear broke"):
        level_reach(claim(*PAIR), [lacking, lacking])


def test_times_are_of_no_training() -> None:
    rows = trained((0, 1), {"calm": (5.0, 6.0), "rq32": (9.0, 9.1)}, "tiny")
    speeds = (around(2.0), around(2.0), 1.0, around(1.0))
    rows = [(row, {"overall_speedup": speed}) for (row, _), speed in zip(rows, speeds, strict=True)]
    # What one has in its first training alone, and the other in its second, was timed in one run.
    run = make_run([rows[0], rows[3]])
    metric = "overall_speedup"
    ratio = claim("ratio", row(metric, "calm-music", 4), row(metric, "rq32-music"), side="above")
    (one,) = evidence(ratio, run)
    assert one.value == pytest.approx(2.0)


def test_a_factor_of_several_trainings_has_the_spread_of_a_factor() -> None:
    rows = trained((0, 1), {"calm": (4.0, 5.0), "rq32": (8.0, 8.0)}, "tiny")
    run = make_run(rows)
    pool = Pooled(
        cell_ids=tuple(row.cell_id for row, _ in rows[:2]),
        baseline_cell_ids=tuple(row.cell_id for row, _ in rows[2:]),
        metric="fad",
        recipe_id="fad-mel",
        prompt_error=1e-9,  # of a difference: it says nothing of a factor
        n=2,
    )
    pooled = run.results.model_copy(update={"pooled_differences": (pool,)})
    ratio = claim("ratio", *PAIR[1:])
    (one,) = evidence(ratio, replace(run, results=pooled))
    assert one == evidence(ratio, run)[0]
    assert one.value == pytest.approx((4.0 * 5.0) ** 0.5 / 8.0)
    assert one.spread == pytest.approx(1.25 ** (0.5**0.5))
    assert "detectable with 3 / 5 / 10 trainings: ×" in (one.note or "")


def test_a_training_that_one_side_lacks_has_no_part() -> None:
    rows = trained((0, 1, 2), {"calm": (5.0, 6.0, 7.0), "rq32": (9.0, 9.0, 9.0)}, "tiny")
    (one,) = evidence(claim(*PAIR), make_run(rows[:-1]))
    assert one.trainings == 2
    assert "without training 2: a has no row rq32-music" in (one.note or "")


def test_what_has_no_training_is_one_however_many_a_run_holds() -> None:
    rows = trained((0, 1), {"calm": (5.0, 6.0)}, "tiny")
    codecs = [system(f"{name}-music-tiny", name) for name in ("vae", "rvq")]
    rows += [(row, {"fad": around(3.0 + i)}) for i, row in enumerate(codecs)]
    gap = claim("difference", row("fad", "vae-music"), row("fad", "rvq-music"))
    (one,) = evidence(gap, make_run(rows))
    assert (one.trainings, one.verdict) == (1, ONCE)


def test_one_training_of_either_side_is_one_training() -> None:
    rows = trained((0, 1, 2), {"calm": (5.0, 5.1, 5.2)}, "tiny")
    rows.append((RQ32, {"fad": around(9.0)}))
    (one,) = evidence(claim(*PAIR), make_run(rows))
    assert (one.trainings, one.verdict) == (1, ONCE)


def headline(name: str, steps: int, side: str = "below") -> Claim:
    rows = row("fad", "calm-music", steps), row("fad", "rq32-music")
    return claim("difference", *rows, id=name, side=side, headline=True)


def test_headlines_are_corrected_together() -> None:
    # Intervals that just leave zero: each would stand alone, and none of three does.
    steps = (1, 4, 10)
    rows = [(CALM[n], {"fad": around(6.0)}) for n in steps]
    rows.append((RQ32, {"fad": around(9.0)}))
    run = make_run(rows, [(CALM[n], RQ32, "fad", (-3.0, -5.9, -0.1)) for n in steps])
    (alone,) = build_ledger([headline("a", 1)], [run]).lines
    assert (alone.verdict, alone.family) == (ONCE, "headline")
    together = build_ledger([headline(f"a{n}", n) for n in steps], [run]).lines
    for one in together:
        assert one.verdict == "inconclusive"
        assert one.evidence[0].verdict == ONCE
        assert one.p == pytest.approx(3 * one.evidence[0].p)
        assert f"{ONCE}, were it alone" in (one.note or "")


def test_a_joint_claim_is_as_good_as_its_worst(music: StoredRun) -> None:
    both = {"id": "both", "section": "abstract", "says": "Better and cheaper.", "rows": ()}
    better, cheaper = claim(*PAIR, id="better"), claim(*SPEED, side="above", than=1, id="cheaper")
    fields = better.model_dump() | both | {"measure": "joint", "side": None}
    joint = Claim.model_validate(fields | {"claims": ("better", "cheaper")})
    ledger = build_ledger([joint, better, cheaper], [music])
    assert ledger.lines[0].verdict == ONCE
    assert ledger.lines[0].note == f"better: {ONCE}; cheaper: direction holds"
    worse = better.model_copy(update={"side": "above"})
    assert build_ledger([joint, worse, cheaper], [music]).lines[0].verdict == AGAINST
    # That one of two only just leaves the null on the other side is what chance does.
    near = {"fad": around(6.0), "overall_speedup": around(2.0)}
    rows = [(CALM[4], near), (RQ32, {"fad": around(9.0)})]
    run = make_run(rows, [(CALM[4], RQ32, "fad", (-3.0, -5.9, -0.1))])
    lines = build_ledger([joint, worse, cheaper], [run]).lines
    assert [one.verdict for one in lines] == ["inconclusive", AGAINST, "direction holds"]


def test_a_level_claim_needs_a_narrow_interval() -> None:
    seeds = (0, 1, 2)
    rows = trained(seeds, {"calm": (9.0, 9.1, 8.9), "rq32": (9.0, 9.0, 9.0)}, "tiny")
    level = claim(*PAIR, side="level", delta=0.1)

    def verdict(reach: float) -> Line:
        return line(level, make_run(rows, paired(rows, seeds, (0.0, 0.1, -0.1), reach)))

    assert verdict(0.3).verdict == "equivalent"
    assert "δ is 10 % of the second row: ±0.900" in (verdict(0.3).evidence[0].note or "")
    assert verdict(2.0).verdict == "inconclusive"
    assert "prompts would show that it lies within δ" in (verdict(2.0).evidence[0].note or "")
    once = [row for row in rows if row[0].training == 0]
    found = line(level, make_run(once, paired(once, (0,), (0.0,), 0.3)))
    assert found.verdict == "inconclusive"
    assert "within δ in one training" in (found.evidence[0].note or "")


def test_parameters_are_counted_from_shapes() -> None:
    sized = {"metric": "head_parameters", "model": "calm-music"}
    number = {"text": "601M", "number": (6.01e8, 6.01e6)}
    found = line(claim("count", sized, side="above", scales=["paper"], published=number))
    assert (found.verdict, found.family) == ("reproduced", "exact")
    assert found.evidence[0].value == 601_113_728
    (none,) = [line(claim("count", sized | {"model": "rq32-music"}, side="above"))]
    assert "rq32-music-paper has no head" in (none.note or "")


def test_clips_that_are_all_alike_are_neither_exact_nor_certain() -> None:
    rows = [(CALM[4], {"fad": around(6.0)}), (RQ32, {"fad": around(6.0)})]
    run = make_run(rows, [(CALM[4], RQ32, "fad", (1.0, 1.0, 1.0))], n=4)
    found = line(claim(*PAIR, side="above"), run)
    assert found.verdict == "inconclusive"
    assert found.evidence[0].p == 2 * 0.5**4
    (table,) = ledger_tables(build_ledger([claim(*PAIR, side="above")], [run]))[1:]
    fields = [cell.text for cell in table.rows[0]]
    assert "exact" not in fields
    assert "4" in fields


def test_an_order_is_as_strong_as_its_weakest_link(music: StoredRun) -> None:
    rows = [row("fad", "calm-music", n) for n in (25, 50, 100)]
    rising = claim("order", *rows, side="above")
    found = of_recipe(evidence(rising, music), "mel")
    assert found.value == pytest.approx(9.6 - 7.4)
    assert found.low == pytest.approx(9.6 * 0.94 - 7.4 * 1.06)
    assert found.high == pytest.approx(9.6 * 1.06 - 7.4 * 0.94)  # that link's own, too
    assert found.verdict == ONCE
    assert "weakest link: +2.20 from calm-music, 25 head steps" in (found.note or "")
    # 10 and 25 steps overlap: one undecided link leaves the order open.
    tied = claim("order", *(row("fad", "trigflow-music", n) for n in (10, 25, 50)))
    found = of_recipe(evidence(tied, music), "mel")
    assert found.verdict == "inconclusive"
    assert re.search(r"about [\d,]+ \([\d,]+ to no end\) prompts would show", found.note or "")
    # One link wholly on the other side contradicts it, whatever the others say.
    rows = [row("fad", "calm-music", n) for n in (4, 10, 100)]
    wrong = claim("order", *rows, row("fad", "rq32-music"), side="above")
    assert of_recipe(evidence(wrong, music), "mel").verdict == AGAINST


def test_a_time_from_another_device_or_size_shows_a_direction() -> None:
    faster = claim(*SPEED, side="above", than=1, published={"text": "×1.9", "number": 1.9})
    on_gpu = {"environment": {"device": "cuda"}}

    def verdict(scale: str, **changes: Any) -> str:
        rows = [(system(f"calm-music-{scale}", "CALM", steps=4), speed)]
        return line(faster, make_run(rows, **changes)).verdict

    speed = {"overall_speedup": around(1.9)}
    assert verdict("tiny") == verdict("paper") == verdict("tiny", **on_gpu) == "direction holds"
    assert verdict("paper", **on_gpu) == "reproduced"
    speed = {"overall_speedup": around(9.0)}
    assert verdict("paper", **on_gpu) == "exceeds"
    speed = {"overall_speedup": around(1.2)}
    assert verdict("paper", **on_gpu) == "falls short"


def test_evidence_at_the_published_size_and_device_goes_first() -> None:
    faster = claim(*SPEED, side="above", than=1, published={"text": "×1.9", "number": 1.9})
    runs = []
    for scale, device in (("tiny", "cpu"), ("paper", "cuda")):
        rows = [(system(f"calm-music-{scale}", "C", steps=4), {"overall_speedup": SLOW})]
        runs.append(make_run(rows, name=f"a-{scale}", environment={"device": device}))
    found = line(faster, *runs)
    assert {one.verdict for one in found.evidence} == {"direction holds", "reproduced"}
    assert found.verdict == "reproduced"


SLOW = (1.9, 1.8, 2.0)


def test_real_time_is_claimed_of_a_device() -> None:
    live = claim("value", row("rtf", "pocket-tts"), side="below", than=1, scales=["released"])
    rows = [(system("pocket-tts", "Pocket TTS"), {"rtf": around(0.4)})]
    run = make_run(rows, benchmark="speech")
    assert "real time was claimed of cuda" in (line(live, run).note or "")
    assert line(live.model_copy(update={"device": "cpu"}), run).verdict == "direction only"


def test_a_number_without_an_interval_has_no_verdict(music: StoredRun) -> None:
    speed = row("overall_speedup", "rq32-music")
    found = line(claim("value", speed, side="above", than=1), music)
    assert found.verdict == "not measured"
    assert "has no interval" in (found.note or "")


def test_fad_over_time_is_first_and_last_segment(ablations: StoredRun) -> None:
    rows = (row("fad_last", "calm-music-none"), row("fad_first", "calm-music-none"))
    (found,) = evidence(claim("difference", *rows, side="above"), ablations)
    assert found.value == pytest.approx(80.0 - 8.0)
    assert found.verdict == ONCE


def test_half_trained_is_the_last_checkpoint_before_half(ablations: StoredRun) -> None:
    rows = (row("fad_half_trained", f"calm-music{name}") for name in ("-no-multiplier", ""))
    (found,) = evidence(claim("difference", *rows, side="above"), ablations)
    assert found.value == pytest.approx(21.0 - 12.0)


def test_random_weights_say_nothing_of_quality() -> None:
    run = stored(music_results(), weights={"calm-music-tiny": None})
    found = line(claim(*PAIR), run)
    assert "the weights of calm-music-tiny are random" in (found.note or "")
    faster = claim(*SPEED, side="above", than=1)
    assert line(faster, run).verdict == "direction holds"


def test_times_of_an_unfit_machine_are_not_judged() -> None:
    note = f"{UNFIT} by +9.0 % on this machine"
    run = stored(music_results().model_copy(update={"notes": (note,), "fit": False}))
    faster = claim(*SPEED, side="above", than=1)
    ledger = build_ledger([faster], [run])
    assert "unfit" in (ledger.lines[0].note or "")
    assert any(note in text for text in ledger.notes)


def test_a_claim_about_the_papers_size_needs_that_size(music: StoredRun) -> None:
    found = line(claim(*PAIR, scales=["paper"]), music)
    assert found.verdict == "not measured"
    assert "music-1 is of scale tiny; the claim is about scale paper" in (found.note or "")


def test_a_selector_that_fits_two_rows_is_an_error(music: StoredRun) -> None:
    with pytest.raises(InputError, match="must say temp or steps"):
        evidence(claim("difference", row("fad", "calm-music"), row("fad", "rq32-music")), music)


def test_times_of_several_head_steps_are_no_one_time(music: StoredRun) -> None:
    faster = claim("value", row("overall_speedup", "calm-music"), side="above", than=1)
    with pytest.raises(InputError, match="must say temp or steps"):
        evidence(faster, music)


def test_what_is_missing_is_said_of_the_run_that_came_nearest(music: StoredRun) -> None:
    cell = system("calm-speech-tiny", "CALM")
    speech = make_run([(cell, {"wer": around(20.0)})], name="speech-1", benchmark="speech")
    partly = claim("difference", row("fad", "calm-music", 4), row("fad", "gone"))
    found = line(partly, speech, music)
    assert found.note == "music-1 has no row gone"
    found = line(claim("difference", row("fad", "gone"), row("fad", "gone-too")), speech, music)
    assert found.note == "no stored run has fad of gone, gone-too"


def test_every_claim_is_a_line_with_a_verdict(music: StoredRun, ablations: StoredRun) -> None:
    claims = load_claims()
    ledger = build_ledger(claims, [music, ablations])
    assert [line.claim for line in ledger.lines] == [found.id for found in claims]
    for one in ledger.lines:
        assert one.verdict != "not measured" or (one.note and one.command and not one.evidence)
        for found in one.evidence:
            assert found.verdict not in ("not measured", "mixed")
            assert found.low <= found.value <= found.high
    assert sum(ledger.counts.values()) == len(claims)
    assert ledger.summary.startswith(f"{len(claims)} claims: ")
    rows = [row for table in ledger_tables(ledger)[1:] for row in table.rows]
    assert sum(row[0].text != "↳" for row in rows) == len(claims)
    n = sum(max(1, len(one.evidence)) for one in ledger.lines)
    assert len(ledger_csv(ledger).splitlines()) == n + 1


def test_what_is_confounded_says_so(music: StoredRun) -> None:
    found = build_ledger([claim(*PAIR, note="confounded: two losses")], [music])
    (table,) = ledger_tables(found)[1:]
    assert any("confounded: two losses" in field.text for field in table.rows[0])
