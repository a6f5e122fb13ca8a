"""Several trainings of a system: rows, clips and numbers of each, and their mean."""

import csv
import io
import re
import shutil
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import pytest
from commands import call
from scipy import stats

from calm_bench.config import WeightsSpec, load_model_config, model_dir, training_seeds
from calm_bench.core.inference import over_trainings
from calm_bench.errors import InputError
from calm_bench.numbers.pairs import compared_rows
from calm_bench.numbers.trainings import effect_of
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import Plan, expand
from calm_bench.report.formats import to_csv
from calm_bench.report.tables import difference_tables, main_table
from calm_bench.run import run
from calm_bench.score.clips import Clips
from calm_bench.score.summary import Outcome, _Numbers
from calm_bench.store.records import LatencyRecord, ScoreRecord, TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.systems.loading import load_system
from calm_bench.training.train import write_training, write_weights
from calm_bench.types import Column, Estimate


def with_trainings(name: str, *seeds: int) -> None:
    """The debug model in ./models, with weights and further trainings that are told apart."""
    folder = Path("models") / name
    shutil.copytree(model_dir(name), folder)
    state = load_system(name, mode="plain").state_dict()
    own = {key: value for key, value in state.items() if not key.startswith("codec.")}
    facts = {"recipe": "one", "steps": 2}
    write_weights(folder, load_model_config(name)[0], own, facts)
    for seed in seeds:
        scaled = {key: value * (1 - seed / 8) for key, value in own.items()}
        write_training(folder, seed, scaled, facts)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose CALM has three trainings, whose RQ two, and another CALM one."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with_trainings("calm-debug", 1, 2)
        with_trainings("rq-debug", 1)
        with_trainings("calm-music-debug")
    return folder


@pytest.fixture
def here(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)


@pytest.fixture(scope="module")
def found(models: Path, twin: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A finished run of all trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(models)
        plan = expand(str(twin), Overrides(trainings="all", head_steps=(1,)))
        return run(plan, out=tmp_path_factory.mktemp("runs") / "run", device="cpu")


def planned(twin: Path, trainings: str | None, **overrides: object) -> Plan:
    return expand(str(twin), Overrides(trainings=trainings, head_steps=(1,), **overrides))  # type: ignore[arg-type]


def system_ids(plan: Plan) -> list[str]:
    return [row.cell_id for row in plan.rows if row.kind == "system"]


@pytest.mark.usefixtures("here")
def test_every_training_is_a_row_under_a_label_of_its_own(twin: Path) -> None:
    plan = planned(twin, "all")
    rows = {row.cell_id: row for row in plan.rows if row.kind == "system"}
    assert [(key, row.model, row.training, row.label) for key, row in rows.items()] == [
        ("rq-debug-t1", "rq-debug", 0, "RQ, training 0"),
        ("rq-debug-seed1-t1", "rq-debug@seed1", 1, "RQ, training 1"),
        ("calm-debug-t1", "calm-debug", 0, "CALM, training 0"),
        ("calm-debug-seed1-t1", "calm-debug@seed1", 1, "CALM, training 1"),
        ("calm-debug-seed2-t1", "calm-debug@seed2", 2, "CALM, training 2"),
    ]
    assert {row.system for row in rows.values()} == {("rq-debug", "RQ"), ("calm-debug", "CALM")}
    for seed in (1, 2):
        spec = load_model_config(f"calm-debug@seed{seed}")[0].weights
        assert spec is not None
        assert plan.models.weights[f"calm-debug@seed{seed}"] == spec.sha256
    assert len({batch.trials[0].trial_id for batch in plan.batches}) == len(plan.rows)
    # A training's clips are the same ones without the others beside it.
    alone = planned(twin, None)
    ids = {t.trial_id for batch in alone.batches for t in batch.trials}
    assert ids < {t.trial_id for batch in plan.batches for t in batch.trials}
    assert {row.training for row in alone.rows} == {None}
    assert system_ids(planned(twin, "2")) == list(rows)[:4]
    assert system_ids(planned(twin, "0,1")) == list(rows)[:4]
    assert system_ids(planned(twin, "1,")) == ["rq-debug-seed1-t1", "calm-debug-seed1-t1"]
    assert "rq-debug has 2 of 3 trainings" in planned(twin, "3").notes
    assert "rq-debug has no training of seed 2" in planned(twin, "0,2").notes


@pytest.mark.usefixtures("here")
def test_each_training_is_compared_with_the_same_one_of_the_baseline_or_its_first(
    twin: Path,
) -> None:
    assert compared_rows(planned(twin, "all").rows) == [
        ("calm-debug-t1", "rq-debug-t1"),
        ("calm-debug-seed1-t1", "rq-debug-seed1-t1"),
        ("calm-debug-seed2-t1", "rq-debug-t1"),
    ]
    systems = ("calm-debug", "calm-music-debug")
    pairs = compared_rows(planned(twin, "all", systems=systems, temperatures=(1.0, 0.5)).rows)
    assert ("calm-debug-seed1-t0.5", "calm-debug-seed1-t1") in pairs
    assert ("calm-music-debug-t0.5", "calm-debug-t0.5") in pairs
    trainings = {
        name: [part for part in name.split("-") if "seed" in part] for name in sum(pairs, ())
    }
    assert all(trainings[a] == trainings[b] for a, b in pairs)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("asked", "systems", "message"),
    [
        ("some", (), "give `all`, how many, or seeds"),
        ("0", (), "give `all`, how many, or seeds"),
        ("00", (), "give `all`, how many, or seeds"),
        ("5,", (), "no training of seed 5, only of 0, 1: calm-bench train rq-debug --seed"),
        ("all", ("calm-music-debug",), "no system here has more than one"),
    ],
)
def test_trainings_that_are_not_there_are_one_line(
    twin: Path, asked: str, systems: tuple[str, ...], message: str
) -> None:
    words = ["run", twin, "--trainings", asked, "--dry-run"]
    words += ["--systems", *systems] if systems else []
    assert message in call(*words, code=2).text


@pytest.mark.usefixtures("here")
def test_trainings_of_another_recipe_are_no_draws_of_one_system(twin: Path) -> None:
    config = model_dir("rq-debug") / "config.yaml"
    text = config.read_text()
    try:
        config.write_text(text.replace("recipe: one", "recipe: two", 1))
        with pytest.raises(InputError, match="trainings 0, 1 were not made by one recipe"):
            planned(twin, "all")
        config.write_text(text.replace("    recipe: one\n", "", 1))
        notes = planned(twin, "all").notes
        assert "rq-debug: whether its trainings were made by one recipe is not on record" in notes
    finally:
        config.write_text(text)


def test_clips_of_trainings_are_kept_apart_and_one_training_is_timed(found: Outcome) -> None:
    store = RunStore(found.folder)
    trials = store.read(TrialRecord)
    assert all(trial.status == "ok" for trial in trials)
    clips = {row.cell_id: {t.clip_id for t in trials if t.cell_id == row.cell_id}
             for row in found.results.cells if row.kind == "system"}  # fmt: skip
    assert sum(map(len, clips.values())) == len(set().union(*clips.values())) == 5 * 16
    timed = {record.cell_id for record in store.read(LatencyRecord)}
    assert timed == {"rq-debug-t1", "calm-debug-t1"}
    assert any("times are of each system's first training" in n for n in found.results.notes)
    rtf = {v.cell_id: v.value for v in found.results.rows if v.metric == "rtf"}
    assert len({rtf[name] for name in clips if name.startswith("calm")}) == 1


def test_results_hold_every_training_and_their_mean_with_its_spread(found: Outcome) -> None:
    results = found.results
    names = ("calm-debug-t1", "calm-debug-seed1-t1", "calm-debug-seed2-t1")
    pools = {pool.metric: pool for pool in results.pooled if pool.cell_ids == names}
    own = {v.cell_id: v for v in results.rows if v.metric == "fad"}
    values = [own[name].value or 0.0 for name in names]
    pool = pools["fad"]
    assert (pool.n, pool.recipe_id) == (3, own[names[0]].recipe_id)
    assert pool.value == pytest.approx(fmean(values))
    assert pool.sd == pytest.approx(stdev(values))
    assert (pool.least, pool.greatest) == (min(values), max(values))
    assert "rtf" not in pools
    assert {pool.cell_ids[0] for pool in results.pooled} == {"rq-debug-t1", "calm-debug-t1"}


def test_tables_show_mean_and_spread_below_the_trainings(found: Outcome) -> None:
    table = main_table(found.results)
    names = [row[0].text for row in table.rows]
    assert names[-4:] == [
        "CALM, training 0", "CALM, training 1", "CALM, training 2", "CALM, mean of 3 trainings",
    ]  # fmt: skip
    assert "RQ, mean of 2 trainings" in names
    column = [heading.text for heading in table.headings].index("FAD ↓")
    pool = next(p for p in found.results.pooled if p.metric == "fad" and p.n == 3)
    shown = re.findall(r"[\d.]+", table.rows[-1][column].text)
    numbers = (pool.value, pool.least, pool.greatest)
    assert [float(text) for text in shown] == pytest.approx(numbers, rel=0.01)
    assert table.rows[-1][-1].text == "48"
    assert any(note.startswith("mean of trainings:") for note in table.notes)
    lines = list(csv.DictReader(io.StringIO(to_csv(found.results))))
    (line,) = [line for line in lines if line["kind"] == "trainings" and line["system"] == "CALM"]
    assert float(line["fad"]) == pool.value
    assert float(line["fad_least"]) == pool.least
    assert [line["training"] for line in lines if line["system"].startswith("CALM, ")] == list(
        "012"
    )


@pytest.mark.usefixtures("here")
def test_a_run_of_trainings_goes_on_and_makes_nothing_twice(found: Outcome, twin: Path) -> None:
    before = (found.folder / "trials.jsonl").read_bytes()
    plan = planned(twin, "all")
    again = run(plan, out=found.folder, device="cpu")
    assert (found.folder / "trials.jsonl").read_bytes() == before
    assert again.results == found.results


def test_random_weights_and_a_seed_named_twice_are_no_further_trainings() -> None:
    made = {1: WeightsSpec(sha256="1"), 2: WeightsSpec(sha256="2")}
    config = load_model_config("calm-debug")[0].model_copy(update={"trainings": made})
    assert training_seeds(config) == [1, 2]
    own = {"weights": WeightsSpec(sha256="0"), "training": {"seed": 2}}
    assert training_seeds(config.model_copy(update=own)) == [2, 1]


def test_differences_are_one_number_over_trainings(found: Outcome) -> None:
    results = found.results
    pools = {pool.metric: pool for pool in results.pooled_differences}
    for name in ("fad", "loudness"):
        pool = pools[name]
        pairs = list(zip(pool.cell_ids, pool.baseline_cell_ids, strict=True))
        assert pairs == [
            ("calm-debug-t1", "rq-debug-t1"), ("calm-debug-seed1-t1", "rq-debug-seed1-t1"),
        ]  # fmt: skip
        own = {(d.cell_id, d.baseline_cell_id): d for d in results.differences if d.metric == name}
        effects = [effect for pair in pairs if (effect := effect_of(own[pair])) is not None]
        values = [effect.value for effect in effects]
        assert (pool.value, pool.sd) == pytest.approx((fmean(values), stdev(values)))
        assert pool.prompt_error is not None
        # The mean over trainings moves with prompts no more than one of them does.
        errors = [(e.high - e.low) / 2 / stats.t.ppf(0.975, e.df) for e in effects]
        assert pool.prompt_error < 1.1 * max(errors)
        wanted = over_trainings(effects, pool.prompt_error)
        assert (pool.low, pool.high) == pytest.approx((wanted.low, wanted.high))
        assert pool.detectable == pytest.approx(wanted.detectable)
    assert (pools["loudness"].prompt_error or 0.0) == pytest.approx(by_hand(found), rel=0.3)
    table = next(t for t in difference_tables(results) if t.title == "Over several trainings")
    row = next(row for row in table.rows if row[3].text == "FAD ↓")
    assert [field.text for field in row[:3]] == ["CALM", "RQ", "1.0"]
    assert row[4].text.startswith("+")
    assert float(row[5].text) == pytest.approx(pools["fad"].sd or 0.0, abs=0.01)
    assert row[6].text.count("/") == 2
    assert row[7].text == "2"


def test_blocks_of_other_prompts_do_not_say_what_trainings_have_in_common(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    column = Column.of("fad", "FAD", "", aggregate="set")
    pairs = [("a-t1", "b-t1"), ("a-seed1-t1", "b-seed1-t1")]
    prompts = {f"p{i}/0": f"p{i}" for i in range(4)}
    gap = Estimate(value=1.0, n=4, deleted=(0.9, 1.1, 1.2, 0.8))
    score: Any = SimpleNamespace(differences={pair: {"fad": gap} for pair in pairs})
    numbers = _Numbers(score, Clips({}))
    owners = dict.fromkeys(pairs, prompts)
    monkeypatch.setattr(_Numbers, "_shared", lambda _, pair: ({}, {}, owners[pair]))
    wanted = stats.sem(gap.deleted) * 3  # of deleted values: (G - 1) times that of their own
    assert numbers._prompt_error(pairs, column) == pytest.approx(wanted)
    owners[pairs[1]] = {**prompts, "p3/0": "p4"}
    assert numbers._prompt_error(pairs, column) is None


def by_hand(found: Outcome) -> float:
    """The standard error over prompts of the mean difference in loudness over two trainings."""
    store = RunStore(found.folder)
    trials = {trial.trial_id: trial for trial in store.read(TrialRecord)}
    loudness = {
        (score.cell_id, trials[score.trial_id].prompt_id): score.values["loudness"] or 0.0
        for score in store.read(ScoreRecord)
        if score.metric == "loudness"
    }
    prompts = sorted({prompt for _, prompt in loudness})
    gaps = [
        fmean(
            loudness[f"calm-debug{seed}-t1", prompt] - loudness[f"rq-debug{seed}-t1", prompt]
            for seed in ("", "-seed1")
        )
        for prompt in prompts
    ]
    return float(stats.sem(gaps))
