"""What a claim measures: read strictly, refused in one line."""

import pytest

from calm_bench.errors import InputError
from calm_bench.report.paper.expressions import Selector, parse_expression


def test_a_difference_names_two_rows() -> None:
    found = parse_expression("difference(fad[calm-music, temp=1.0, steps=4], fad[rq32-music])")
    assert found.function == "difference"
    assert found.rows == (
        Selector(metric="fad", model="calm-music", temp=1.0, steps=4),
        Selector(metric="fad", model="rq32-music"),
    )


def test_several_values_are_several_rows_in_their_order() -> None:
    found = parse_expression("order(fad[a, steps=10|4], fad[b, temp=1.0|0.8, steps=1])")
    settings = [(row.model, row.temp, row.steps) for row in found.rows]
    assert settings == [("a", None, 10), ("a", None, 4), ("b", 1.0, 1), ("b", 0.8, 1)]


def test_blanks_do_not_matter() -> None:
    assert parse_expression(" value( rtf [ a ,steps = 1 ] ) ") == parse_expression(
        "value(rtf[a, steps=1])"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("diference(fad[a], fad[b])", "'diference' is no function; did you mean difference?"),
        ("value(fad[a, step=1])", "'step' is no setting; did you mean steps"),
        ("value(fad[a], fad[b])", "value takes 1 row, not 2"),
        ("difference(fad[a])", "difference takes 2 rows, not 1"),
        ("order(fad[a])", "order takes at least 2 rows, not 1"),
        ("value(fad[a, steps=2.5])", "steps must be a whole number, not '2.5'"),
        ("value(fad[a, temp=hot])", "temp must be a number, not 'hot'"),
        ("value(fad[a, temp=1, temp=2])", "temp is set twice"),
        ("value(fad[a]", "ends where ')' must stand"),
        ("value(fad(a))", "expected '[', not '('"),
        ("value(fad[a]) + 1", "unexpected character"),
        ("value(fad[a])x", "nothing may follow the last bracket"),
        ("__import__('os')", "unexpected character"),
        ("", "ends where a function must stand"),
        ("value(FAD[a])", "expected a metric, not 'FAD'"),
    ],
)
def test_errors_are_one_line_with_a_place(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_expression(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "character" in str(caught.value)
