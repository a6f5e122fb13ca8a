"""What a run's results say of rows that hold nothing."""

from pathlib import Path

import numpy as np
from records import manifest

from calm_bench.core.audio import write_flac
from calm_bench.core.sounds import sound_of
from calm_bench.score.clips import Clips, StoredClip
from calm_bench.score.scorer import MetricScores, Scorer
from calm_bench.score.summary import summarise_run
from calm_bench.store.records import Row
from calm_bench.store.run_store import RunStore
from calm_bench.types import Column, Estimate, MetricResult

CELLS = (
    Row(cell_id="reference", label="Reference", kind="reference"),
    Row(cell_id="silence", label="Silence", kind="silence"),
    Row(cell_id="noise", label="Noise", kind="noise"),
    Row(cell_id="a", label="A", kind="system", model="a", temperature=1.0),
    Row(cell_id="b", label="B", kind="system", model="b", temperature=0.8),
)
MANIFEST = manifest()


def column(name: str, *, better: bool | None = False) -> Column:
    return Column(name=name, label=name, unit="", higher_is_better=better, aggregate="set")


def scores(columns: tuple[Column, ...], **values: tuple[float | None, ...]) -> MetricScores:
    results = {
        row: MetricResult(
            estimates={
                c.name: Estimate(value=v, reason=None if v is not None else "unknown")
                for c, v in zip(columns, found, strict=True)
            }
        )
        for row, found in values.items()
    }
    missing = {c.cell_id: "not here" for c in CELLS if c.cell_id not in results}
    return MetricScores(
        metric="m", columns=columns, recipe_id="r", results=results, reasons=missing
    )


def notes(*found: MetricScores, table: tuple[str, ...] = ()) -> tuple[str, ...]:
    scorer = Scorer(CELLS, Clips({}), RunStore(Path("nowhere")))
    return summarise_run(scorer, found, [], MANIFEST, trials={}, table=table).notes


def test_silence_that_beats_the_reference_is_said_in_one_line() -> None:
    columns = (column("PPX"), column("DNSMOS", better=True), column("level", better=None))
    found = scores(
        columns, reference=(508.2, 4.0, -20.0), silence=(3.4, 1.0, -99.0), noise=(600.0, 4.1, 0.0)
    )
    (note,) = notes(found)
    assert note.startswith("better than the reference without any content")
    assert "PPX (Silence 3.4, Reference 508)" in note
    assert "DNSMOS (Noise 4.1, Reference 4)" in note
    assert "level" not in note
    assert notes(found, table=("level",)) == ()  # what nobody is shown misleads nobody


def test_a_system_that_does_not_beat_noise_is_said_in_one_line() -> None:
    (note,) = notes(scores((column("FAD"),), noise=(10.3,), a=(12.14,), b=(9.9,), silence=(1.0,)))
    assert note == "noise does as well as a system or better: FAD (Noise 10.3, A, temp 1.0 12.1)"
    (tie,) = notes(scores((column("FAD"),), noise=(10.3,), b=(10.3,)))
    assert "B, temp 0.8 10.3" in tie


def test_a_loss_counts_for_a_draw_whose_first_has_lost_its_clip(tmp_path: Path) -> None:
    write_flac(tmp_path / "p.flac", np.full(1000, 0.1, np.float32), 1000)
    about = {"path": tmp_path / "p.flac", "sound": sound_of(tmp_path / "p.flac")}
    clip = StoredClip(clip_id="second", prompt_id="p", group="p", seed_index=1, **about)
    loss = Column(name="nll", label="NLL", aggregate="mean", fields=("nll",))
    found = MetricScores(
        metric="text_nll",
        columns=(loss,),
        recipe_id="r",
        results={"a": MetricResult(clips={name: {"nll": 2.0} for name in ("first", "second")})},
        reasons={cell.cell_id: "not here" for cell in CELLS if cell.cell_id != "a"},
        alike={"a": {"first": "first", "second": "first"}},
    )
    scorer = Scorer(CELLS, Clips({"a": [clip]}), RunStore(tmp_path))
    results = summarise_run(scorer, [found], [], MANIFEST, trials={})
    assert [(row.value, row.n) for row in results.rows if row.cell_id == "a"] == [(2.0, 1)]


def test_a_difference_that_one_training_lacks_is_no_mean_and_says_so() -> None:
    def trained(name: str, seed: int) -> Row:
        about = {"label": f"{name}, training {seed}", "model": f"{name}@seed{seed}"}
        return Row(cell_id=f"{name}{seed}", kind="system", training=seed, **about)

    rows = [trained(name, seed) for name in ("a", "b") for seed in (0, 1)]
    pairs = [("a0", "b0"), ("a1", "b1")]
    gap = Estimate(value=-1.0, low=-2.0, high=0.0, n=8)
    found = MetricScores(
        metric="m",
        columns=(column("FAD"),),
        recipe_id="r",
        results={name: MetricResult() for name in ("a0", "b0", "b1")},
        reasons={"a1": "it gave no clip"},
        differences={("a0", "b0"): {"FAD": gap}},
    )
    scorer = Scorer(rows, Clips({}), RunStore(Path("nowhere")))
    (pool,) = summarise_run(scorer, [found], pairs, MANIFEST, trials={}).pooled_differences
    assert (pool.value, pool.n, pool.reason) == (None, 1, "no number of training 1")


def test_rows_in_their_right_order_raise_no_note() -> None:
    found = scores(
        (column("FAD"),), reference=(0.1,), noise=(10.3,), silence=(20.0,), a=(2.0,), b=(None,)
    )
    assert notes(found) == ()
