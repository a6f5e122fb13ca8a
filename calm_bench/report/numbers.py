"""Numbers as text: decimals by column, intervals as ± or [low, high]."""

from collections.abc import Iterable

from calm_bench.store.results import ColumnInfo, Difference, Value

TEMPERATURE_KINDS = {
    "noise_variance": "noise variance",
    "softmax_divisor": "softmax divisor",
    "none": "",
}
TIMES = "×"


def decimals_of(column: ColumnInfo, values: Iterable[float | None]) -> int:
    """How many decimals a column shows: its own choice, else by the largest of its values."""
    if column.decimals is not None:
        return column.decimals
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    return next((d for d, limit in enumerate((1000.0, 10.0, 1.0)) if largest >= limit), 3)


def plain_number(value: float, decimals: int) -> str:
    """A number with fixed decimals, a true minus sign and never a minus zero."""
    text = f"{value:.{decimals}f}"
    if not any(c in text for c in "123456789"):
        text = text.removeprefix("-")
    return text.replace("-", "−")


def signed(value: float, decimals: int) -> str:
    """A difference: always with its sign, unless it rounds to zero."""
    text = plain_number(value, decimals)
    return text if text.startswith("−") or not any(c in text for c in "123456789") else f"+{text}"


def interval_text(value: Value | Difference, decimals: int, *, sign: bool = False) -> str:
    """What follows a value: " ± 1.2" if both sides round to one width, else " [low, high]"."""
    if value.value is None or value.low is None or value.high is None:
        return ""
    below = plain_number(value.value - value.low, decimals)
    above = plain_number(value.high - value.value, decimals)
    if below == above:
        return f" ± {above}"
    show = signed if sign else plain_number
    return f" [{show(value.low, decimals)}, {show(value.high, decimals)}]"


def value_text(value: Value, column: ColumnInfo, decimals: int) -> str:
    """A value with its interval, as the table shows it; a dash where there is none."""
    if value.value is None:
        return "—"
    times = TIMES if column.unit == TIMES else ""
    return times + plain_number(value.value, decimals) + interval_text(value, decimals)


def heading(column: ColumnInfo) -> str:
    """A column's label with its unit and an arrow towards better."""
    arrow = {True: " ↑", False: " ↓", None: ""}[column.higher_is_better]
    unit = f" ({column.unit})" if column.unit not in ("", TIMES) else ""
    times = f" {TIMES}" if column.unit == TIMES and not column.label.endswith(TIMES) else ""
    return f"{column.label}{unit}{times}{arrow}"
