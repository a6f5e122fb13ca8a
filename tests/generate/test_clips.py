from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calm_bench.core.audio import audio_hash, read_audio
from calm_bench.errors import InputError
from calm_bench.generate.clips import Studio, pending_batches
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import Plan, expand
from calm_bench.run import prompts_of
from calm_bench.store.records import TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.systems.base import System
from calm_bench.systems.loading import OpenModels, load_system
from calm_bench.types import Precision


@pytest.fixture(scope="module")
def plan() -> Plan:
    return expand("smoke", Overrides())


def generate(plan: Plan, store: RunStore) -> None:
    Studio(plan, store, OpenModels(plan.models, "cpu"), prompts_of(plan)).make(plan.rows)


def clips(store: RunStore) -> dict[str, str | None]:
    return {record.trial_id: record.clip_id for record in store.read(TrialRecord)}


@pytest.fixture(scope="module")
def made(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    store = RunStore(tmp_path_factory.mktemp("made"))
    generate(plan, store)
    return store


def test_every_trial_has_a_clip_that_is_what_its_record_says(plan: Plan, made: RunStore) -> None:
    records = made.read(TrialRecord)
    assert len(records) == plan.n_trials
    for record in records:
        assert record.status == "ok"
        wave, rate = read_audio(made.root / str(record.clip))
        assert audio_hash(wave, rate) == record.clip_id
        assert rate == record.sample_rate == 1600
        assert len(wave) / rate == pytest.approx(0.96)
        assert record.prompt_seconds == pytest.approx(0.24)


def test_systems_carry_their_monologue_and_references_the_real_text(made: RunStore) -> None:
    by_cell: dict[str, list[TrialRecord]] = {}
    for record in made.read(TrialRecord):
        by_cell.setdefault(record.cell_id, []).append(record)
    for name in ("reference", "vae_round_trip", "silence"):
        words = [[w for w, *_ in record.words or ()] for record in by_cell[name]]
        assert words == [["one", "two"], ["three", "four"]]
    heads = [(record.words or (("",),))[0][0] for record in by_cell["calm-debug-t0.8"]]
    # Random weights babble on without a space.
    assert [head[:3] for head in heads] == ["one", "thr"]


def test_silence_is_the_prompt_and_then_nothing(made: RunStore) -> None:
    record = next(r for r in made.read(TrialRecord) if r.cell_id == "silence")
    wave, rate = read_audio(made.root / str(record.clip))
    start = round(record.prompt_seconds * rate)
    assert np.abs(wave[:start]).max() > 0.01
    assert not wave[start:].any()


def test_round_trip_rows_know_their_codecs_bit_rate(made: RunStore) -> None:
    rates = {t.cell_id: t.bit_rate for t in made.read(TrialRecord) if t.bit_rate}
    assert rates.keys() == {"rvq_round_trip", "vae_round_trip"}
    assert rates["rvq_round_trip"].value == 12.5 * 3 * 4  # frames, codebooks, bits
    assert rates["vae_round_trip"].value is None
    assert rates["vae_round_trip"].reason == "continuous latents have no bit rate"


def test_nothing_is_made_twice(plan: Plan, made: RunStore, monkeypatch: Any) -> None:
    assert pending_batches(plan, made) == []
    monkeypatch.setattr(OpenModels, "codec", None)
    generate(plan, made)


@pytest.mark.parametrize("kept", [0, 1, 3, 9])
def test_a_killed_run_goes_on_to_the_same_clips(
    plan: Plan, made: RunStore, tmp_path: Path, kept: int
) -> None:
    store = RunStore(tmp_path)
    generate(plan, store)
    trials = tmp_path / TrialRecord.file
    lines = trials.read_bytes().splitlines(keepends=True)
    trials.write_bytes(b"".join(lines[:kept]) + lines[kept][:25])  # the last one is torn
    assert len(pending_batches(plan, store)) == len(plan.batches) - kept // 2
    generate(plan, store)
    assert clips(store) == clips(made)


def test_a_lost_clip_is_made_again(plan: Plan, made: RunStore, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    generate(plan, store)
    path = tmp_path / str(store.read(TrialRecord)[-1].clip)
    before = path.read_bytes()
    path.unlink()
    generate(plan, store)
    assert path.read_bytes() == before
    for other in (b"", before[:-9], (tmp_path / str(store.read(TrialRecord)[0].clip)).read_bytes()):
        path.write_bytes(other)
        generate(plan, store)
        assert path.read_bytes() == before


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    real = System.generate

    def generate(self: System, *args: Any) -> Any:
        if type(self).__name__ != "CalmSystem":
            return real(self, *args)
        if error is not None:
            raise error
        found = real(self, *args)
        with torch.inference_mode():
            found.wave[1, -1] = float("nan")
        return found

    monkeypatch.setattr(System, "generate", generate)


def test_a_failed_batch_is_recorded_and_the_others_go_on(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, RuntimeError("out of memory\nand more"))
    store = RunStore(tmp_path)
    generate(plan, store)
    failed = [record for record in store.read(TrialRecord) if record.status == "failed"]
    assert {record.cell_id for record in failed} == {"calm-debug-t0.8", "calm-debug-t1"}
    assert {record.error for record in failed} == {"RuntimeError: out of memory and more"}
    assert len(store.read(TrialRecord)) == plan.n_trials
    monkeypatch.undo()
    generate(plan, store)
    assert {record.status for record in store.read(TrialRecord)} == {"ok"}


def test_audio_that_is_not_finite_fails_alone(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, None)
    store = RunStore(tmp_path)
    generate(plan, store)
    failed = [record for record in store.read(TrialRecord) if record.status == "failed"]
    assert {r.cell_id for r in failed} == {"calm-debug-t0.8", "calm-debug-t1"}
    assert {r.prompt_id for r in failed} == {"smoke-1"}
    assert {r.error for r in failed} == {"the audio holds NaN or infinite samples"}


def test_what_the_user_can_mend_stops_the_run(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, InputError("no such tokenizer"))
    with pytest.raises(InputError, match="no such tokenizer"):
        generate(plan, RunStore(tmp_path))


def test_a_clip_depends_neither_on_other_rows_nor_on_the_global_seed(
    made: RunStore, tmp_path: Path
) -> None:
    torch.manual_seed(123)
    store = RunStore(tmp_path)
    generate(expand("smoke", Overrides(systems=("calm",), temperatures=(0.8,))), store)
    known = clips(made)
    found = {k: v for k, v in clips(store).items() if k in known}
    assert len(found) == 10
    assert all(known[trial_id] == clip_id for trial_id, clip_id in found.items())


def test_a_row_runs_in_its_precision(
    made: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(name: str, device: str, *, precision: Precision, **options: Any) -> System:
        loaded.append((name, precision))
        return load_system(name, device, precision=precision, **options)

    monkeypatch.setattr("calm_bench.systems.loading.load_system", load)
    overrides = Overrides(
        temperatures=(0.8,), precisions=("fp32", "int8"), systems=("calm",), latency=False
    )
    store = RunStore(tmp_path)
    generate(expand("smoke", overrides), store)
    assert loaded == [("calm-debug", "fp32"), ("calm-debug", "int8")]
    plain = {r.clip_id for r in made.read(TrialRecord) if r.cell_id == "calm-debug-t0.8"}
    exact = {r.clip_id for r in store.read(TrialRecord) if r.cell_id == "calm-debug-t0.8-fp32"}
    assert plain == exact
