import pytest

from calm_bench.cli.options import LISTS, spread_values
from calm_bench.errors import InputError

SPREAD = ["--temps", "0.8", "--temps", "1.0"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("speech --temps 0.8 1.0", ["speech", *SPREAD]),
        ("--temps 0.8 1.0 speech", [*SPREAD, "speech"]),
        ("--temps 0.8,1.0 speech", [*SPREAD, "speech"]),
        ("--temps=0.8 1.0 speech", [*SPREAD, "speech"]),
        ("--temps=0.8,1.0 speech", [*SPREAD, "speech"]),
        ("speech --temps 0.8 --temps 1.0", ["speech", *SPREAD]),
        ("speech --temps 0.8 1.0 --seeds 2", ["speech", *SPREAD, "--seeds", "2"]),
        ("--temps 0.8 1.0 -- speech", [*SPREAD, "--", "speech"]),
        ("--temps 0.8, 1.0 speech", [*SPREAD, "speech"]),
        ("--seeds 2 speech", ["--seeds", "2", "speech"]),
        ("--systems calm rq smoke", ["--systems", "calm", "--systems", "rq", "smoke"]),
        ("smoke --systems calm,rq", ["smoke", "--systems", "calm", "--systems", "rq"]),
        ("--systems calm rq mine.yaml", ["--systems", "calm", "--systems", "rq", "mine.yaml"]),
        ("--prompt-audio a,b.wav c.wav smoke", [
            "--prompt-audio", "a,b.wav", "--prompt-audio", "c.wav", "smoke",
        ]),
    ],
)  # fmt: skip
def test_every_way_to_write_a_list(line: str, expected: list[str]) -> None:
    assert spread_values(line.split(), LISTS) == expected


@pytest.mark.parametrize("value", ["-1", "-0.5", "-.5", "-inf", "-nan", "nan", "inf"])
def test_a_bad_number_stays_in_the_list_for_its_type_to_refuse(value: str) -> None:
    words = ["--temps", "0.8", value, "smoke"]
    assert spread_values(words, LISTS) == ["--temps", "0.8", "--temps", value, "smoke"]


def test_a_word_is_a_value_where_it_cannot_be_the_benchmark() -> None:
    # The first word always belongs to its option; a second benchmark can only be a mistake.
    assert spread_values(["--systems", "smoke"], LISTS) == ["--systems", "smoke"]
    spread = spread_values(["smoke", "--systems", "calm", "smoke"], LISTS)
    assert spread == ["smoke", "--systems", "calm", "--systems", "smoke"]


@pytest.mark.parametrize("line", ["smoke --temps", "--temps --seeds 2 smoke", "--temps -- smoke"])
def test_a_list_without_values_is_refused(line: str) -> None:
    with pytest.raises(InputError, match="--temps needs at least one value"):
        spread_values(line.split(), LISTS)


def test_options_that_take_no_list_are_left_alone() -> None:
    assert spread_values(["--out", "a", "b"], LISTS) == ["--out", "a", "b"]
