"""What belongs together in two folders, by the command and by names alone."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from clips import lay
from commands import call, refused

from calm_bench.score.pairing import pair


@pytest.fixture
def score(tmp_path: Path) -> Any:
    """The command over files of these names: its exit code, and its answer or its error."""

    def run(clips: list[str], originals: list[str], *words: str) -> tuple[int, Any]:
        shutil.rmtree(tmp_path, ignore_errors=True)
        lay(tmp_path, [f"clips/{name}" for name in clips] + [f"real/{name}" for name in originals])
        line = ["score", tmp_path / "clips", "--reference", tmp_path / "real", "--json"]
        said = call(*line, "--out", tmp_path / "run", *words, code=(0, 2))
        return said.code, said.json if said.out else said.text

    return run


FIDELITY = ("--metrics", "fidelity")


def si_sdr(found: Any) -> Any:
    return next(
        row for row in found["rows"] if (row["cell_id"], row["metric"]) == ("clips", "si_sdr")
    )


def test_what_does_not_pair_is_named(score: Any) -> None:
    clips = ["a.wav", "b_gen.wav", "C.wav", "sub/d.wav", "e.mp3", "zzz.wav"]
    originals = ["a.flac", "b.wav", "c.wav", "d.wav", "e.wav", "e.flac"]
    code, found = score(clips, originals, *FIDELITY)
    assert (code, si_sdr(found)["n"]) == (0, 1)
    (note,) = [note for note in found["notes"] if "have no original" in note]
    assert note.startswith("5 of 6 files in ")
    assert "C.wav, b_gen.wav, e.mp3 (it could be a version of e.flac or e.wav) and 2 more" in note
    assert any("5 files in" in note and "have no version" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("clips", "originals", "rule"),
    [
        (["a_gen.wav", "b_gen.wav"], ["a.wav", "b.wav"], "{}_gen"),
        (["a.wav", "b.wav"], ["a-real.wav", "b-real.wav"], "{}={}-real"),
        (["gen/a.wav", "b.wav"], ["a.wav", "x/b.wav"], "stem"),
        (["v2_a_x.wav", "v2_b_x.wav"], ["a.wav", "b.wav"], "v2_{}_x"),
    ],
)
def test_nothing_pairs_and_the_suggestion_pairs(
    score: Any, clips: list[str], originals: list[str], rule: str
) -> None:
    code, found = score(clips, originals, *FIDELITY)
    assert code == 0
    assert si_sdr(found)["value"] is None
    assert f"--pair-by '{rule}' would pair more" in si_sdr(found)["reason"]
    code, found = score(clips, originals, *FIDELITY, "--pair-by", rule)
    assert (code, si_sdr(found)["n"]) == (0, 2)
    assert not [note for note in found["notes"] if "have no" in note]


def test_without_pairs_only_what_needs_none_is_measured(score: Any) -> None:
    code, found = score(["x1.wav"], ["y1.wav"])
    metrics = {row["metric"] for row in found["rows"]}
    assert code == 0
    assert "loudness" in metrics
    assert "si_sdr" not in metrics
    assert any("1 of 1 files" in note and "x1.wav" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("originals", "rule", "said"),
    [
        (["x/a.wav", "y/a.wav"], "stem", "a.wav in .* could be a version of x/a.wav, y/a.wav"),
        (["b.wav"], "stem", "pairs nothing: 1 of 1 .* a.wav"),
        (["a.wav"], "{}x", "1 of 1 .* a.wav; --pair-by 'path'"),
    ],
)
def test_a_rule_that_does_not_hold_is_refused(
    score: Any, originals: list[str], rule: str, said: str
) -> None:
    code, error = score(["a.wav"], originals, *FIDELITY, "--pair-by", rule)
    assert code == 2
    assert re.search(said, error), error


def test_pairing_without_a_reference_is_refused(tmp_path: Path) -> None:
    assert "--reference DIR" in refused("score", lay(tmp_path, ["a.wav"]), "--pair-by", "stem")


@pytest.mark.parametrize(
    ("names", "originals", "rule", "found"),
    [
        # The same name before the same folder before any other.
        (["a.wav", "a.flac"], ["a.wav", "a.flac"], "path", {"a.wav": "a.wav", "a.flac": "a.flac"}),
        (["s/a.mp3"], ["t/a.wav", "s/a.wav"], "stem", {"s/a.mp3": "s/a.wav"}),
        (["a.mp3"], ["a.wav", "a.flac"], "path", {}),
        (["a.mp3", "a.ogg"], ["a.wav"], "path", {"a.mp3": "a.wav", "a.ogg": "a.wav"}),
        # Composed and decomposed letters are the same letters.
        (["caf\u00e9.wav"], ["cafe\u0301.flac"], "path", {"caf\u00e9.wav": "cafe\u0301.flac"}),
        (["gen/x/a.wav"], ["real/x/a.wav"], "gen/{}=real/{}", {"gen/x/a.wav": "real/x/a.wav"}),
        (["a.b_gen.wav"], ["a.b.wav"], "{}_gen", {"a.b_gen.wav": "a.b.wav"}),
        (["1-30/9-15/a.wav"], ["a.wav"], "*/*/{}={}", {"1-30/9-15/a.wav": "a.wav"}),
        (["a(1)[x].wav"], ["a.wav"], "{}(1)[x]", {"a(1)[x].wav": "a.wav"}),
    ],
)
def test_rules(names: list[str], originals: list[str], rule: str, found: dict[str, str]) -> None:
    assert dict(pair(names, originals, rule).originals) == found


def test_ten_thousand_names_take_no_time() -> None:
    originals = [f"speaker_{k % 100:03d}/utt_{k:05d}_take_1.wav" for k in range(10_000)]
    names = [f"speaker_{k % 100:03d}/utt_{k:05d}_take_1_gen.wav" for k in range(10_000)]
    assert pair(names, originals).suggestion == "{}_gen"
