import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from calm_bench.core import paths
from calm_bench.core.audio import write_flac
from calm_bench.errors import InputError, UnknownNameError, WeightsError
from calm_bench.numbers.pairs import compared_rows
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import Plan, check_prompts, expand, plan_lines, subset
from calm_bench.plan.rows import sampling_of
from calm_bench.seeds import file_hash

SMOKE = paths.benchmarks_dir() / "smoke.yaml"
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the smoke benchmark with other fields beside a copy of all prompts: its path."""
    shutil.copytree(SMOKE.parent / "prompts", tmp_path / "prompts")

    def written(**changes: object) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(SMOKE.read_text()), **changes}))
        return str(path)

    return written


def plan(**overrides: object) -> Plan:
    return expand("smoke", Overrides(**overrides))  # type: ignore[arg-type]


def cell_ids(found: Plan) -> list[str]:
    return [cell.cell_id for cell in found.rows]


def test_rows_are_references_then_systems_at_every_temperature() -> None:
    assert cell_ids(plan()) == [
        "reference", "vae_round_trip", "rvq_round_trip", "silence",
        "rq-debug-t0.8", "rq-debug-t1", "calm-debug-t0.8", "calm-debug-t1",
    ]  # fmt: skip


def test_batches_cover_every_trial_once() -> None:
    found = plan(n_seeds=3)
    trials = [trial for batch in found.batches for trial in batch.trials]
    assert len(trials) == found.n_trials == 8 * 2 * 3
    assert len({trial.trial_id for trial in trials}) == len(trials)
    assert len({trial.clip for trial in trials}) == len(trials)
    assert all(len(batch.trials) <= found.spec.batch_size for batch in found.batches)
    assert all(t.cell_id == b.row.cell_id for b in found.batches for t in b.trials)


def test_the_same_options_give_the_same_plan() -> None:
    assert plan(temperatures=(0.5,)) == plan(temperatures=(0.5,))


@pytest.mark.parametrize(
    "change",
    [
        {"temperatures": (0.8,)},
        {"text_temperature": 0.7},
        {"precisions": ("int8",)},
        {"precisions": ("fp32",)},
        {"systems": ("calm",)},
        {"n_prompts": 1},
        {"n_seeds": 2},
    ],
)
def test_whatever_changes_the_clips_changes_the_run(change: dict[str, object]) -> None:
    assert plan(**change).run_id != plan().run_id


def test_metrics_and_tables_are_no_part_of_the_runs_identity(write: Write) -> None:
    for metrics in (["loudness"], ["loudness", "dnsmos"]):
        path = write(metrics=metrics, description=str(metrics))
        assert expand(path, Overrides()).run_id == plan().run_id


def test_prompts_of_one_recording_are_another_run(write: Write, tmp_path: Path) -> None:
    index = tmp_path / "prompts" / "smoke.jsonl"
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    index.write_text("".join(f"{json.dumps({**line, 'group': 'tape'})}\n" for line in lines))
    found = expand(write(), Overrides())
    assert {prompt.group for prompt in found.prompts} == {"tape"}
    assert found.run_id != plan().run_id


def test_seeds_depend_on_prompt_and_draw_alone() -> None:
    seeds = {
        (trial.prompt.id, trial.seed_index): {
            t.seed
            for b in plan(n_seeds=2).batches
            for t in b.trials
            if (t.prompt.id, t.seed_index) == (trial.prompt.id, trial.seed_index)
        }
        for batch in plan(n_seeds=2).batches
        for trial in batch.trials
    }
    assert all(len(found) == 1 for found in seeds.values())
    assert len({found.pop() for found in seeds.values()}) == 4
    less = plan(systems=("calm",), temperatures=(0.3,))
    assert {t.seed for b in less.batches for t in b.trials} == {
        t.seed for b in plan().batches for t in b.trials
    }


def test_text_follows_the_audio_temperature_unless_it_is_fixed() -> None:
    texts = {c.text_temperature for c in plan().rows if c.kind == "system"}
    assert texts == {0.8, 1.0}
    fixed = plan(text_temperature=0.7)
    assert {c.text_temperature for c in fixed.rows if c.kind == "system"} == {0.7}
    assert "calm-debug-t0.8-text0.7" in cell_ids(fixed)


def test_sampling_comes_from_the_row() -> None:
    found = plan(temperatures=(0.0,), text_temperature=0.5)
    drawn = sampling_of(next(c for c in found.rows if c.model == "rq-debug"))
    assert (drawn.temperature, drawn.text_temperature) == (0.0, 0.5)
    assert (drawn.head_steps, drawn.top_k) == (3, 250)


@pytest.mark.parametrize("name", ["calm", "calm-debug", "CALM (debug)"])
def test_a_system_is_chosen_by_name_by_its_first_part_or_by_label(name: str) -> None:
    found = plan(systems=(name,))
    assert {c.model for c in found.rows if c.kind == "system"} == {"calm-debug"}
    assert "reference" in cell_ids(found)
    assert any("no baseline" in note for note in found.notes)


def test_a_model_outside_the_benchmark_becomes_a_row() -> None:
    found = plan(systems=("rq-debug", "calm-speech-paper"))
    assert "calm-speech-paper-t1" in cell_ids(found)


def test_what_is_named_twice_is_made_once(write: Write) -> None:
    once = {"references": ["reference", "silence"], "temperatures": [1.0], "metrics": ["loudness"]}
    twice = expand(write(**{name: found * 2 for name, found in once.items()}), Overrides())
    assert cell_ids(twice) == ["reference", "silence", "rq-debug-t1", "calm-debug-t1"]
    assert twice.spec.metrics == ("loudness",)
    assert twice == replace(expand(write(**once), Overrides()), models=twice.models)


def test_systems_of_one_label_are_told_apart_by_their_models(tmp_path: Path, write: Write) -> None:
    folders = [str(tmp_path / name / "mine") for name in ("a", "b")]
    for folder in folders:
        shutil.copytree(paths.models_dirs()[-1] / "calm-debug", folder)
    systems = [{"model": name, "label": "CALM"} for name in ("calm-debug", "rq-debug")]
    for found, names in (
        (plan(systems=folders), [f"mine, {folder}" for folder in folders]),
        (expand(write(systems=systems), Overrides()), ["CALM, calm-debug", "CALM, rq-debug"]),
    ):
        rows = [row for row in found.rows if row.kind == "system"]
        assert list(dict.fromkeys(row.label for row in rows)) == names
    labels = {row.label for row in plan(systems=("calm", folders[0])).rows if row.kind == "system"}
    assert labels == {"CALM (debug)", "mine"}


def test_random_weights_are_said() -> None:
    assert any("random weights in calm-debug" in note for note in plan().notes)


def test_rows_are_compared_with_the_baseline_and_with_the_first_temperature() -> None:
    assert compared_rows(plan().rows) == [
        ("calm-debug-t0.8", "rq-debug-t0.8"),
        ("calm-debug-t1", "rq-debug-t1"),
        ("rq-debug-t1", "rq-debug-t0.8"),
        ("calm-debug-t1", "calm-debug-t0.8"),
    ]


def test_a_system_without_text_has_no_text_temperature() -> None:
    found = expand("ablations", Overrides(text_temperature=0.5))
    drawn = [cell for cell in found.rows if cell.kind == "system"]
    assert {cell.text_temperature for cell in drawn} == {None}
    assert sampling_of(drawn[0]).temperature == 1.0
    assert not any(", text" in line for line in plan_lines(found))


def test_systems_with_and_without_text_are_compared(write: Write) -> None:
    systems = yaml.safe_load(SMOKE.read_text())["systems"]
    systems[-1]["model"] = "calm-music-debug"  # draws no text
    cells = expand(write(systems=systems), Overrides(temperatures=(0.8,))).rows
    assert compared_rows(cells) == [("calm-music-debug-t0.8", "rq-debug-t0.8")]
    other = [cell.model_copy(update={"text_temperature": 0.5}) for cell in cells if cell.baseline]
    later = [cell for cell in plan(temperatures=(0.8,)).rows if cell.model == "calm-debug"]
    assert compared_rows([*other, *later]) == []


def test_each_precision_is_a_row_compared_with_the_first() -> None:
    found = plan(temperatures=(0.8,), precisions=("fp32", "int8"))
    assert cell_ids(found)[4:] == [
        "rq-debug-t0.8-fp32", "rq-debug-t0.8-int8", "calm-debug-t0.8-fp32", "calm-debug-t0.8-int8",
    ]  # fmt: skip
    assert [cell.precision for cell in found.rows[4:]] == ["fp32", "int8"] * 2
    assert [cell.baseline for cell in found.rows[4:]] == [True, False, False, False]
    assert found.rows[5].label == "RQ-Transformer (debug), int8"
    assert compared_rows(found.rows) == [
        ("rq-debug-t0.8-int8", "rq-debug-t0.8-fp32"),
        ("calm-debug-t0.8-fp32", "rq-debug-t0.8-fp32"),
        ("calm-debug-t0.8-int8", "rq-debug-t0.8-fp32"),
        ("calm-debug-t0.8-int8", "rq-debug-t0.8-int8"),
        ("calm-debug-t0.8-int8", "calm-debug-t0.8-fp32"),
    ]
    seeds = {batch.row.cell_id: [trial.seed for trial in batch.trials] for batch in found.batches}
    assert seeds["calm-debug-t0.8-int8"] == seeds["calm-debug-t0.8-fp32"]  # the same draws


def test_the_plan_says_which_metrics_will_say_nothing() -> None:
    few = expand("music", Overrides(n_prompts=8, n_seeds=2))  # the reference is 8 recordings
    assert few.notes == ("8 clips a row leave a dash under fad: 16 are needed",)
    assert expand("music", Overrides(n_prompts=16)).notes == ()
    speech = expand("speech", Overrides(n_prompts=1, n_seeds=2)).notes
    assert "1 clip a row leaves a dash under fad: 16 are needed" in speech


def test_the_plan_says_what_it_will_do() -> None:
    text = "\n".join(plan_lines(plan()))
    assert "8 rows × 2 prompts = 16 clips of 0.96 s, 0.24 s given" in text
    assert "RQ-Transformer (debug), temp 0.8 (baseline): rq-debug" in text
    assert json.dumps(plan().as_json())


def test_missing_weights_are_found_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "calm-lost"
    folder.mkdir(parents=True)
    text = (paths.models_dirs()[-1] / "calm-debug" / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text + f"weights: {{sha256: '{'0' * 64}'}}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"calm-lost has no weights: .* does not exist"):
        plan(systems=("calm-lost",))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("references", ["referense"], "unknown reference row 'referense'; did you mean reference"),
        ("references", ["mimi_round_trip"], "names no codec for 'mimi'"),
        ("codecs", {}, "names no codec for 'vae'"),
        ("metrics", ["werr"], "unknown metric 'werr'; did you mean wer"),
        ("temperatures", [-1.0], "temperatures.0: a temperature is a number from 0 to 10"),
        ("temperature", [1.0], "temperature: unknown field; did you mean temperatures"),
        ("prompts", "nowhere.jsonl", r"cannot read .*nowhere\.jsonl"),
        ("prompts", "../no/where.jsonl", r"cannot read .*where\.jsonl"),
        ("prompts", "a\0b", r"prompts: 'a.x00b' is no path of a file"),
    ],
)
def test_a_benchmark_of_ones_own_is_checked(
    write: Write, field: str, value: object, message: str
) -> None:
    with pytest.raises((InputError, UnknownNameError), match=message):
        expand(write(**{field: value}), Overrides())


@pytest.mark.parametrize("listed", ["../elsewhere/prompts/mine.jsonl", "{}/prompts/mine.jsonl"])
@pytest.mark.parametrize("audio", ["prompts/a.flac", "a.flac"])
def test_prompts_may_lie_anywhere(write: Write, tmp_path: Path, listed: str, audio: str) -> None:
    folder = tmp_path.parent / "elsewhere"
    path = folder / "prompts" / "a.flac"
    write_flac(path, np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32), 16000)
    line = {"id": "a", "audio": audio, "sha256": file_hash(path)}
    (folder / "prompts" / "mine.jsonl").write_text(json.dumps(line) + "\n")
    found = expand(write(prompts=listed.format(folder)), Overrides())
    assert (found.root / found.prompts[0].audio).samefile(path)
    check_prompts(found)


def test_a_system_brings_the_round_trip_of_its_own_codec(write: Write, tmp_path: Path) -> None:
    """At the levels that it uses, and once for all systems of one codec."""
    mine = [{"model": name, "label": name} for name in ("rq-levels-debug", "musicgen-debug")]
    found = expand(write(systems=mine), Overrides())
    trips = {row.label: (row.model, row.levels) for row in found.rows if row.kind == "round_trip"}
    assert trips == {
        "VAE round trip": ("vae-debug", None),
        "RVQ round trip": ("rvq-debug", None),
        "rvq-debug round trip, 2 levels": ("rvq-debug", 2),
        "rvq4-debug round trip": ("rvq4-debug", None),
    }
    assert cell_ids(found)[:6] == [
        "reference", "vae_round_trip", "rvq_round_trip", "rvq-debug-2_round_trip",
        "rvq4-debug_round_trip", "silence",
    ]  # fmt: skip
    folders = []
    for name in ("a", "b"):  # as two people name theirs
        codec = shutil.copytree(paths.models_dirs()[-1] / "vae-debug", tmp_path / name / "vae")
        own = shutil.copytree(paths.models_dirs()[-1] / "calm-debug", tmp_path / name / "calm")
        text = (own / "config.yaml").read_text().replace("codec: vae-debug", f"codec: {codec}")
        (own / "config.yaml").write_text(text)
        folders.append(str(own))
    labels = [row.label for row in plan(systems=folders).rows if row.kind == "round_trip"]
    assert labels[-2:] == [f"vae round trip, {tmp_path / name / 'vae'}" for name in ("a", "b")]
    asked = plan(systems=("calm", "musicgen-debug"))
    assert cell_ids(asked).count("rvq4-debug_round_trip") == 1
    bare = expand(write(systems=mine, references=["reference"]), Overrides())
    assert not any(row.kind == "round_trip" for row in bare.rows)


def test_ones_own_recordings_replace_the_prompts(tmp_path: Path) -> None:
    short, long = tmp_path / "a b.flac", tmp_path / "long.flac"
    for path, seconds in ((short, 0.3), (long, 1.0)):
        rng = np.random.default_rng(0)
        write_flac(path, rng.normal(0, 0.1, int(16000 * seconds)).astype(np.float32), 16000)
    found = plan(prompt_audio=(long,))
    assert [p.audio for p in found.prompts] == [str(long)]
    assert not any("recordings end" in note for note in found.notes)
    check_prompts(found)
    both = plan(prompt_audio=(long, short))
    assert [p.id.rpartition("-")[0] for p in both.prompts] == ["long", "a-b"]
    assert cell_ids(both) == cell_ids(found)
    assert {"reference", "vae_round_trip", "rvq_round_trip"} <= set(cell_ids(both))
    (note,) = (note for note in both.notes if "recordings end" in note)
    assert note.startswith(f"1 of 2 recordings end before the clips' 0.96 s, {short} first, ")
    assert "after 0.30 s: rows made of recordings hold what there is" in note
    check_prompts(both)


def test_a_recording_shorter_than_the_prompt_is_refused_by_name_and_length(tmp_path: Path) -> None:
    for index in range(5):
        wave = np.full(3200 + 160 * index, 0.1, dtype=np.float32)
        write_flac(tmp_path / f"r{index}.flac", wave, 16000)
    with pytest.raises(InputError) as caught:
        plan(prompt_audio=tuple(sorted(tmp_path.glob("*.flac"))))
    text = str(caught.value)
    assert text.startswith(f"too short for the prompt of 0.24 s: {tmp_path / 'r0.flac'} (0.20 s), ")
    assert "r1.flac (" in text
    assert "(0.22 s) and 1 more" in text  # the last is long enough


def test_all_recordings_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    write_flac(tmp_path / "good.flac", np.full(16000, 0.1, dtype=np.float32), 16000)
    for name in ("bad.wav", "voice.m4a"):
        (tmp_path / name).write_text(f"{name} is no sound")
    with pytest.raises(InputError) as caught:
        check_prompts(plan(prompt_audio=tuple(sorted(tmp_path.iterdir()))))
    assert str(caught.value).startswith("2 of 3 prompts cannot be used: ")
    assert "bad.wav is not a readable sound file" in str(caught.value)
    assert "convert it to FLAC or WAV, as ffmpeg does" in str(caught.value)


def test_what_a_list_says_is_spoken_is_checked_against_who_listens(tmp_path: Path) -> None:
    write_flac(tmp_path / "a.flac", np.full(48000, 0.1, dtype=np.float32), 16000)
    listed = tmp_path / "test.jsonl"
    listed.write_text('{"audio": "a.flac", "text": "guten Tag", "language": "de"}\n')
    with pytest.raises(InputError, match="1 of 1 recordings are not in 'en', a for one is in 'de'"):
        expand("speech", Overrides(prompt_audio=(listed,)))
    assert not any("split" in note for note in plan(prompt_audio=(listed,)).notes)


def test_where_only_the_first_prompts_are_there_a_run_uses_those_and_says_so(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write()
    (tmp_path / "prompts" / "smoke" / "smoke-1.flac").unlink()
    with pytest.raises(InputError, match=r"smoke-1\.flac does not exist"):
        check_prompts(expand(path, Overrides()))
    monkeypatch.setattr(paths, "is_packaged", lambda folder: True)
    for n in (None, 1):
        found = expand(path, Overrides(n_prompts=n))
        assert [prompt.id for prompt in found.prompts] == ["smoke-0"]
        assert "note: 1 of 2 prompts: an installed package" in "\n".join(plan_lines(found))
    with pytest.raises(InputError, match=r"has 1 prompt, not the 2 .*2 are listed"):
        expand(path, Overrides(n_prompts=2))


def test_a_number_of_prompts_is_drawn_from_all_of_the_list() -> None:
    listed = [prompt.id for prompt in expand("speech", Overrides()).prompts]
    few, more = ([p.id for p in expand("speech", Overrides(n_prompts=n)).prompts] for n in (8, 16))
    assert few == [name for name in listed if name in few]
    assert few != listed[:8]
    assert set(few) < set(more) < set(listed)
    many = [prompt.id for prompt in expand("speech", Overrides(n_prompts=48)).prompts]
    assert (many[:32], len(set(many))) == (listed, 48)
    assert many != [p.id for p in expand("speech", Overrides(n_prompts=128)).prompts][:48]
    assert few == [p.id for p in expand("speech", Overrides(n_prompts=8)).prompts]


def test_every_group_gives_the_same_share_of_prompts() -> None:
    sizes = {"a": 40, "b": 20, "c": 8}
    listed = [(f"{group}-{i}", group) for group, n in sizes.items() for i in range(n)]
    for n in (17, 34):
        drawn = [listed[index][1] for index in subset(listed, n)]
        assert all(abs(drawn.count(group) - size * n / 68) < 1 for group, size in sizes.items())
    assert subset(listed, None) == subset(listed, 68) == list(range(68))
    # Ids decide, not places: a list in another order gives the same prompts.
    turned = [listed[::-1][index] for index in subset(listed[::-1], 17)]
    assert sorted(turned) == sorted(listed[index] for index in subset(listed, 17))
