"""The shipped claims: all there, all judged, and a strict file."""

import math
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import call
from rows import system
from stored_runs import around, make_run

from calm_bench import registry
from calm_bench.config import (
    Models,
    SystemRow,
    benchmark_names,
    load_benchmark,
    load_model_config,
    read_yaml,
)
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.listening.session import QUESTIONS
from calm_bench.metrics.fidelity import BITS_PER_SECOND
from calm_bench.plan.overrides import Overrides, apply_overrides
from calm_bench.plan.rows import with_head_steps
from calm_bench.report.paper import claims as claims_module
from calm_bench.report.paper.claims import Claim, load_claims
from calm_bench.report.paper.figures import FIGURES
from calm_bench.report.paper.ledger import build_ledger
from calm_bench.report.paper.published import load_tables
from calm_bench.report.paper.runs import ModelName
from calm_bench.score.held_out import TEXT_LOSS
from calm_bench.speed.timetable import load_spec
from calm_bench.store.run_store import RunStore

# What the paper's result sections and the demo page hold, and the claims that speak of each: every
# table with its rows, every sentence above a demo table. An entry without a claim is a hole.
COVERED = {
    "paper": {"abstract"},
    "paper, table of models": {"parameters"},
    "paper, table 2": {"CALM consistency 1 step, 0.8", "CALM consistency 1 step, 1.0", "rank"},
    "paper, table 4": {
        "all",
        "CALM TrigFlow, 100 steps",
        "CALM consistency, 4 steps",
        "CALM consistency, 1 step",
        "RQ-Transformer 16 RVQ",
        "MusicGen, retrained",
        "acoustic MOS",
        "rank",
        "time in sampler",
    },
    "paper, table 5": {
        "all",
        "without head-batch multiplier",
        "without noise augmentation",
        "without short-context transformer",
        "without all three",
    },
    "paper, window table": {"K = 5", "K = 20", "K = 40"},
    "paper, multiplier figure": {"2, 4, 8"},
    "paper, steps table": {
        *("1", "4", "10", "25", "50", "100"),
        *("4, 10", "10, 25, 50, 100", "4, 10, 25, 50, 100"),
    },
    "paper, scale table": {"CALM 3B", "RQ32 3B"},
    "paper, CLAP table": {"CALM 4 steps, CFG 2", "Elo and MOS"},
    "paper, MusicCaps table": {"CALM 4 steps"},
    "paper, TTS table": {
        "params",
        "Reference through VAE",
        "DiTAR NFE 10",
        "CER",
        "SIM and speaker Elo",
        "CALM LSD NFE 1, CFG 1.5",
        "CALM LSD, no CFG",
        "CALM LSD, CFG 1.25",
        "CALM consistency NFE 1, CFG 1.5",
    },
    "paper, Pocket TTS table": {"Pocket TTS 100M", "WER", "audio-quality Elo", "speaker Elo"},
    "paper, speech codec table": {"VAE", "MUSHRA, MOSNet, ABX"},
    "paper, music codec table": {
        "VAE 128",
        "VAE 32",
        "VAE 32, 96, 128",
        "EnCodec 4 RVQ, Mimi-like 32 RVQ",
    },
    "paper, speaker diversity figure": {"temperature"},
    "demo page": {
        "speech: more meaningful",
        "speech: less capacity on audio",
        "speech: temperature matters for both",
        "ablations: without all three",
        "ablations: without short-context transformer",
        "ablations: without noise",
        "ablations: without head-batch multiplier",
    },
}
DEMO_NUMBERS = {  # the demo page's own figures, by the claim that holds each
    "speech-head-speed": "12.3",
    "speech-overall-speed": "1.3",
    "music-fad-trigflow": "0.64",
    "music-fad-consistency-4": "0.71",
    "music-fad-consistency-1": "0.83",
    "music-fad-musicgen": "1.72",
    "music-overall-4": "1.9",
    "music-overall-1": "2.1",
    "music-overall-musicgen": "1.3",
    "music-overall-trigflow": "0.3",
}
SHARES = {"music-share-trigflow": "86.6", "music-share-rq16": "38.0", "music-share-musicgen": "0.0"}


@pytest.fixture(scope="module")
def claims() -> tuple[Claim, ...]:
    return load_claims()


def test_every_result_of_paper_and_demo_page_has_a_claim(claims: tuple[Claim, ...]) -> None:
    found: dict[str, set[str]] = {}
    for claim in claims:
        found.setdefault(claim.source.where, set()).add(claim.source.row)
    missing = {where: rows - found.get(where, set()) for where, rows in COVERED.items()}
    assert {where: rows for where, rows in missing.items() if rows} == {}


def test_the_demo_pages_numbers_are_in_their_claims(claims: tuple[Claim, ...]) -> None:
    published = {c.id: c.published.text for c in claims if c.published is not None}
    quoted = DEMO_NUMBERS | SHARES
    assert {i for i, number in quoted.items() if number not in published[i]} == set()


def test_a_published_number_is_the_difference_of_the_published_values(
    claims: tuple[Claim, ...],
) -> None:
    pattern = re.compile(r"([\d.]+) ± ([\d.]+) (?:against|to) ([\d.]+) ± ([\d.]+)")
    seen = 0
    for claim in claims:
        found = pattern.fullmatch(claim.published.text) if claim.published else None
        if found is None or claim.published is None or claim.measure != "difference":
            continue
        a, x, b, y = map(float, found.groups())
        rising = "to" in claim.published.text.split()
        wanted = (b - a if rising else a - b), math.hypot(x, y)
        assert claim.published.number == pytest.approx(wanted, abs=6e-4), claim.id
        assert claim.published.by == ("vggish" if claim.rows[0].metric == "fad_inf" else None)
        seen += 1
    assert seen > 20


def test_every_claim_says_what_would_measure_it(claims: tuple[Claim, ...]) -> None:
    assert all(claim.command and claim.says.endswith((".", ")")) for claim in claims)


Parse = Callable[[Sequence[str]], Any]
COMMANDS = list(dict.fromkeys(spec.command for spec in (*load_claims(), *load_tables(), *FIGURES)))


def steps_of(command: str) -> list[list[str]]:
    """The words of each command of a line."""
    return [shlex.split(step, comments=True) for step in command.split(" && ")]


@pytest.fixture
def in_checkout(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the models of the checkout, where models can be made from them."""
    (tmp_path / "models").symlink_to(checkout / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_models(command: str) -> None:
    """Do what a command does before its first `calm-bench`, and between: copy a model, changed."""
    for words in steps_of(command):
        if words[0] == "mkdir":
            assert words[1] == "-p"
            Path(words[2]).mkdir(parents=True, exist_ok=True)
        elif words[0] == "sed":
            expression, source, arrow, target = words[1:]
            assert arrow == ">"
            done = subprocess.run(["sed", expression, source], capture_output=True, check=True)
            Path(target).write_bytes(done.stdout)
            assert read_yaml(Path(target)) != read_yaml(Path(source)), "nothing was changed"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses_and_names_models_that_are_there(
    command: str, parse_command: Parse, in_checkout: Path, checkout: Path
) -> None:
    make_models(command)
    project = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    for words in steps_of(command):
        if words[0] == "calm-bench":
            context = parse_command(words[1:])
            trained = [context.params["name"]] if context.info_name == "train" else []
            for name in (*trained, *(context.params.get("systems") or ())):
                assert load_model_config(name)[0].training or name not in trained
        elif words[:2] == ["pip", "install"]:
            extra = re.fullmatch(r"calm-bench\[(\w+)\]", words[2])
            assert extra is not None
            assert re.search(rf"^{extra[1]} = \[", project, re.M)
        else:
            assert words[0] in ("mkdir", "sed")


@pytest.mark.parametrize(
    "command",
    [c for c in COMMANDS if re.match(r"calm-bench (run|speed) (?!BENCHMARK)", c)],
)
def test_what_needs_no_training_could_run_now(command: str, in_checkout: Path) -> None:
    for words in steps_of(command):
        call(*words[1:], "--dry-run")


def rows_of(context: Any) -> tuple[Sequence[SystemRow], set[str], set[float]]:
    """Which systems a `run` or `speed` command shows, which codecs, and at which temperatures."""
    given, steps = context.params, tuple(context.params["head_steps"] or ())
    if context.info_name == "run":
        systems = tuple(given["systems"] or ())
        wanted = Overrides(
            systems=systems, head_steps=steps, temperatures=tuple(given["temps"] or ())
        )
        spec, _ = apply_overrides(load_benchmark(given["benchmark"]), wanted, Models())
        return spec.systems, {c.model for c in spec.codecs.values()}, set(spec.temperatures)
    timed, part = load_spec(None), context.info_name
    rows = timed.scale(part, given["scale"]).systems
    rows = with_head_steps(rows, steps, Models()) if steps else rows
    return rows, set(), {timed.parts[part].temperature}


@pytest.mark.parametrize(
    "claim",
    [c for c in load_claims() if c.rows and re.search(r"(run|speed) (?!BENCHMARK)", c.command)],
    ids=lambda claim: claim.id,
)
def test_the_command_of_a_claim_makes_the_rows_that_it_compares(
    claim: Claim, parse_command: Parse, in_checkout: Path
) -> None:
    make_models(claim.command)
    systems, codecs, temperatures = rows_of(parse_command(steps_of(claim.command)[-1][1:]))
    made = {(ModelName.of(row.model).base, n) for row in systems for n in row.head_steps}
    names = {name for name, _ in made} | {ModelName.of(name).base for name in codecs}
    for row in claim.rows:
        assert row.model in names
        assert row.steps is None or (row.model, row.steps) in made
        assert row.temp is None or row.temp in temperatures


PEAKS = (("a", 10.0), ("b", 6.0))
A, B = {"metric": "fad", "model": "a"}, {"metric": "fad", "model": "b", "temp": 1.0, "steps": 4}


def entry(**changes: object) -> dict[str, object]:
    good = {
        "id": "a",
        "section": "music",
        "says": "A is better than b.",
        "source": {"where": "here", "row": "a"},
        "measure": "difference",
        "rows": [A, B],
        "side": "below",
        "command": "calm-bench run music",
    }
    return {key: value for key, value in (good | changes).items() if value is not None}


def load(tmp_path: Path, *entries: dict[str, object]) -> tuple[Claim, ...]:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": list(entries)}))
    return load_claims(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sides": "below"}, "claims.a.sides: unknown field; did you mean side"),
        ({"measure": "diff"}, "measure: Input should be 'count', 'difference', 'joint', 'order'"),
        ({"rows": [A | {"metric": "fda"}, B]}, "unknown metric 'fda'; did you mean fad"),
        ({"rows": [A | {"step": 4}, B]}, "claims.a.rows.0.step: unknown field; did you mean steps"),
        ({"rows": [A]}, "difference takes 2 rows, not 1"),
        ({"measure": "ratio", "rows": [A, B, A]}, "ratio takes 2 rows, not 3"),
        ({"measure": "value", "than": 1}, "value takes 1 row, not 2"),
        ({"measure": "order", "rows": [A]}, "order takes at least 2 rows, not 1"),
        ({"side": None}, "a measure needs its `side`"),
        ({"measure": None}, "give either `measure` or `missing`"),
        (
            {"measure": None, "side": None, "missing": "no such thing"},
            "no side, no null and no rows",
        ),
        ({"missing": "no such thing"}, "give either `measure` or `missing`"),
        ({"measure": "value", "rows": [{"metric": "rtf", "model": "a"}]}, "needs `than`"),
        ({"published": {"text": "+1", "number": 1.0}}, "the published 1 is not below 0"),
        ({"published": {"text": "0", "number": 0.0}}, "the published 0 is not below 0"),
        (
            {"measure": "order", "published": {"text": "", "number": -1.0}},
            "an order and a level claim no number",
        ),
        ({"side": "level"}, "`side: level` and `delta` go together"),
        ({"delta": 0.1}, "`side: level` and `delta` go together"),
        ({"side": "level", "delta": 1.5}, "claims.a.delta"),
        ({"measure": "order", "side": "level", "delta": 0.1}, "only a difference can be level"),
        (
            {"side": "level", "delta": 0.1, "published": {"text": "", "number": 1.0}},
            "an order and a level claim no number",
        ),
        ({"measure": "count", "rows": [A]}, "count takes one of backbone_parameters"),
        ({"measure": "joint"}, "a joint claim names `claims`"),
        ({"claims": ["b"]}, "a joint claim names `claims`"),
        (
            {"rows": [A | {"metric": "rtf"}, B | {"metric": "rtf"}], "headline": True},
            "only a claim of quality",
        ),
        ({"measure": "joint", "rows": None, "side": None, "claims": ["b"]}, "at least two"),
        ({"measure": "joint", "rows": None, "side": None, "claims": ["b", "b"]}, "each once"),
        ({"rows": [A, A]}, "not with itself"),
        ({"measure": "order", "rows": [A, B, A]}, "not with itself"),
        ({"side": "level", "delta": 0.1, "than": 1}, "has no `than`"),
        ({"than": math.nan}, "claims.a.than"),
        ({"published": {"text": "", "number": -math.inf}}, "claims.a.published.number"),
        ({"published": {"text": "", "number": [-1.0, 0.0]}}, "claims.a.published.number"),
        ({"published": {"text": "", "number": [-1.0, math.nan]}}, "claims.a.published.number"),
        (
            {"measure": "ratio", "side": "above", "published": {"text": "", "number": [1.5, 2.0]}},
            "the interval of the published factor 1.5 reaches 0",
        ),
        ({"rows": [A | {"steps": 0}, B]}, "claims.a.rows.0.steps"),
        ({"rows": [A | {"temp": -1.0}, B]}, "claims.a.rows.0.temp"),
        ({"measure": None, "side": None, "rows": None, "missing": ""}, "claims.a.missing"),
        ({"scales": []}, "claims.a.scales"),
        ({"scales": ["huge"]}, "claims.a.scales"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, entry(**changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_metric_of_another_package_can_be_claimed_at_once(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    louder = entry(rows=[{"metric": "peak_dbfs", "model": model} for model in ("a", "b")])
    with pytest.raises(InputError, match="unknown metric 'peak_dbfs'"):
        load(tmp_path, louder)
    point = EntryPoint("peak", "calm_bench_example.peak:PeakMetric", "calm_bench.metrics")
    monkeypatch.syspath_prepend(checkout / "tests" / "plugin" / "src")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] * (group == point.group))
    for module, cached in ((registry, "_targets"), (claims_module, "units")):
        monkeypatch.setattr(module, cached, getattr(module, cached).__wrapped__)
    rows = [(system(model, model), {"peak_dbfs": around(x)}) for model, x in PEAKS]
    run = make_run(rows, name="loud-1", benchmark="loud")
    (found,) = build_ledger(load(tmp_path, louder), [run]).lines[0].evidence
    assert (found.verdict, found.value) == ("other direction (one training)", 4.0)


def test_what_no_metric_gives_is_what_others_give() -> None:
    given = {BITS_PER_SECOND.name, TEXT_LOSS[0].name, "mos"}
    given |= {f"elo_{question}" for question in QUESTIONS if question != "quality"}
    assert set(claims_module.OF_NO_METRIC) == given


def test_two_claims_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"claims\.yaml: two claims have the id a"):
        load(tmp_path, entry(), entry())


def test_a_joint_claim_names_single_claims(tmp_path: Path) -> None:
    both = entry(id="c", measure="joint", rows=None, side=None, claims=["a", "b"])
    with pytest.raises(InputError, match="c names b, which is no single claim"):
        load(tmp_path, entry(), both)
    assert len(load(tmp_path, entry(), entry(id="b"), both)) == 3


def test_headlines_are_few(tmp_path: Path) -> None:
    heads = [entry(id=f"a{i}", headline=True) for i in range(7)]
    assert len(load(tmp_path, *heads[:6])) == 6
    with pytest.raises(InputError, match="more than 6 claims are headlines"):
        load(tmp_path, *heads)


def test_claims_are_no_benchmark() -> None:
    assert not {"claims", "published"} & set(benchmark_names())
    with pytest.raises(UnknownNameError, match="unknown benchmark 'claims'"):
        load_benchmark("claims")


def test_music_is_claimed_of_at_the_temperatures_that_validation_prompts_chose(
    checkout: Path,
) -> None:
    run = RunStore(checkout / "results/validation/music-tiny").read_results()
    rows = {row.cell_id: row for row in run.cells}
    tried: dict[tuple[str, int | None], dict[float, float]] = {}
    for value in run.rows:
        recipe = run.recipes.get(str(value.recipe_id), {})
        row = rows[value.cell_id]
        if value.metric == "fad" and recipe["embedding"] == "musicnn" and row.kind == "system":
            assert row.temperature is not None
            assert value.value is not None
            of_row = tried.setdefault((ModelName.of(str(row.model)).base, row.head_steps), {})
            of_row[row.temperature] = value.value
    assert all(by.keys() == {0.6, 0.8, 1.0} for by in tried.values())
    claimed = {
        (row.model, row.steps): row.temp
        for claim in load_claims()
        if claim.section == "music" and claim.family == "quality"
        for row in claim.rows
    }
    assert len(claimed) == len(tried)
    for (model, steps), temperature in claimed.items():
        of_model = {key: by for key, by in tried.items() if key[0] == model}
        by = of_model[model, steps] if steps is not None else next(iter(of_model.values()))
        assert temperature == min(by, key=by.__getitem__), (model, steps)
