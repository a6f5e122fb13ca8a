"""The shipped claims: all there, all judged, and a strict file."""

from pathlib import Path

import pytest
import yaml

from calm_bench.config import benchmark_names, load_benchmark
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.report.paper.claims import Claim, load_claims

# What the paper's result sections and the demo page hold, and the claims that speak of each: every
# table with its rows, every sentence above a demo table. An entry without a claim is a hole.
COVERED = {
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
    "paper, steps table": {"4", "10, 25, 50, 100", "4, 10, 25, 50, 100", "10", "25"},
    "paper, scale table": {"CALM 3B", "RQ32 3B"},
    "paper, CLAP table": {"CALM 4 steps, CFG 2", "Elo and MOS"},
    "paper, MusicCaps table": {"CALM 4 steps"},
    "paper, TTS table": {"CALM LSD NFE 1, CFG 1.5", "CALM consistency NFE 1, CFG 1.5"},
    "paper, Pocket TTS table": {"Pocket TTS 100M"},
    "paper, speech codec table": {"VAE", "MUSHRA, MOSNet, ABX"},
    "paper, music codec table": {"VAE 128", "VAE 32, 96, 128", "EnCodec 4 RVQ, Mimi-like 32 RVQ"},
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


@pytest.fixture(scope="module")
def claims() -> list[Claim]:
    return load_claims()


def test_every_result_of_paper_and_demo_page_has_a_claim(claims: list[Claim]) -> None:
    found: dict[str, set[str]] = {}
    for claim in claims:
        found.setdefault(claim.source.where, set()).add(claim.source.row)
    missing = {where: rows - found.get(where, set()) for where, rows in COVERED.items()}
    assert {where: rows for where, rows in missing.items() if rows} == {}


def test_the_demo_pages_numbers_are_in_their_claims(claims: list[Claim]) -> None:
    published = {c.id: c.published.text for c in claims if c.published is not None}
    assert {i for i, number in DEMO_NUMBERS.items() if number not in published[i]} == set()


def test_every_claim_says_what_would_measure_it(claims: list[Claim]) -> None:
    assert all(claim.command and claim.says.endswith((".", ")")) for claim in claims)


def entry(**changes: object) -> dict[str, object]:
    good = {
        "id": "a",
        "section": "music",
        "says": "A is better than b.",
        "source": {"where": "here", "row": "a"},
        "measure": "difference(fad[a], fad[b])",
        "side": "below",
        "command": "calm-bench run music",
    }
    return {key: value for key, value in (good | changes).items() if value is not None}


def load(tmp_path: Path, *entries: dict[str, object]) -> list[Claim]:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": list(entries)}))
    return load_claims(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sides": "below"}, "claim a: sides: unknown field; did you mean side"),
        ({"measure": "diff(fad[a], fad[b])"}, "'diff' is no function; did you mean difference"),
        ({"measure": "difference(fda[a], fda[b])"}, "unknown metric 'fda'; did you mean fad"),
        ({"side": None}, "a measure needs its `side`"),
        ({"measure": None}, "give either `measure` or `missing`"),
        ({"missing": "no such thing"}, "give either `measure` or `missing`"),
        ({"measure": "value(rtf[a])"}, "needs `than`"),
        ({"published": {"text": "+1", "number": 1.0}}, "the published 1 is not below 0"),
        ({"published": {"text": "0", "number": 0.0}}, "the published 0 is not below 0"),
        (
            {"measure": "order(fad[a], fad[b])", "published": {"text": "", "number": -1.0}},
            "an order claims no number",
        ),
        ({"scales": []}, "claim a: scales"),
        ({"scales": ["huge"]}, "claim a: scales"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, entry(**changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_claims_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two claims have the id a"):
        load(tmp_path, entry(), entry())


def test_claims_are_no_benchmark() -> None:
    assert not {"claims", "published"} & set(benchmark_names())
    with pytest.raises(UnknownNameError, match="unknown benchmark 'claims'"):
        load_benchmark("claims")
