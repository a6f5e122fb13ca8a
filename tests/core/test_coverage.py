"""The command behind docs/intervals.md does its work, on a few draws of a few laws."""

from pathlib import Path
from typing import Any

import pytest
from scripts import loaded

PAGE = Path(__file__).resolve().parents[2] / "docs" / "intervals.md"


@pytest.fixture(scope="module")
def prove() -> Any:
    return loaded(Path(__file__).with_name("prove.py"))


SEEN = ["mean, normal", "mean, lognormal (1)", "mean, three clips a prompt"]
SEEN += ["paired difference, normal", "WER, ratio of sums", "share, 5 %", "median, lognormal"]


@pytest.mark.parametrize("name", [*SEEN, "ratio of times"])
def test_ours_cover_where_percentiles_do_not(prove: Any, name: str) -> None:
    (law,) = (law for law in prove.LAWS if law.name == name)
    found = prove.measured(law, 8, 150, alone=False)
    assert found.covers["ours"] > max(0.88, found.covers["percentile"])
    assert list(found.faults()) == []


def test_an_interval_that_is_too_narrow_is_a_fault(
    prove: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def narrow(*about: Any) -> Any:
        found = wide(*about)
        half = [(end + 3 * found.value) / 4 for end in (found.low, found.high)]
        return prove.Estimate(value=found.value, low=half[0], high=half[1], n=found.n)

    wide = prove.summarise
    monkeypatch.setattr(prove, "summarise", narrow)
    (law,) = (law for law in prove.LAWS if law.name == "mean, normal")
    assert list(prove.measured(law, 16, 150, alone=True).faults())


def test_the_page_shows_every_law(prove: Any) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for law in prove.LAWS:
        assert text.count(f"\n| {law.name} |") == len(prove.SIZES)
