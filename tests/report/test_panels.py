"""How panels are drawn: what axes show, where lines stand, and whose legend it is."""

import pytest
from matplotlib.figure import Figure

from calm_bench.report.looks import COLORS, look, looks
from calm_bench.report.panels import (
    Dot,
    Line,
    Panel,
    Picture,
    _draw,
    by_legend,
    far_apart,
    render,
)


def draw(*panels: Panel) -> Figure:
    return _draw(Picture(title="a title", panels=panels))


def line(index: int, *dots: Dot, label: str = "") -> Line:
    return Line(label=label or f"system {index}", look=look(index), dots=dots)


def test_a_bar_that_reaches_zero_does_not_stretch_a_logarithmic_axis() -> None:
    dots = [Dot(x=x, y=y, x_interval=(low, 2 * x)) for y, (x, low) in enumerate([(2, 0), (40, 30)])]
    panel = Panel(names=["a", "b"], lines=[Line(look=look(0), dots=[d]) for d in dots], log_x=True)
    (axis,) = draw(panel).axes
    low, high = axis.get_xlim()
    assert 0.3 < low < 2
    assert high > 80
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "b"]


def test_lines_of_the_same_x_stand_beside_each_other_and_ticks_where_they_are() -> None:
    lines = [line(i, Dot(x=0.8, y=1.0), Dot(x=1.0, y=2.0)) for i in range(2)]
    (axis,) = draw(Panel(lines=lines, shared_x=True)).axes
    first, second = (container.lines[0].get_xdata() for container in axis.containers)
    assert [float(a + b) / 2 for a, b in zip(first, second, strict=True)] == pytest.approx([0.8, 1])
    assert 0 < second[0] - first[0] < 0.1
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0.8", "1.0"]


def test_an_axis_from_zero_hides_no_point_at_zero() -> None:
    def bottom(*ys: float) -> float:
        dots = [Dot(x=float(x), y=y) for x, y in enumerate(ys)]
        (axis,) = draw(Panel(lines=[line(0, *dots)])).axes
        return float(axis.get_ylim()[0])

    assert bottom(1.0, 5.0) == 0
    assert bottom(0.0, 5.0) < 0
    assert bottom(90.0, 100.0) > 80


def test_panels_share_a_legend_as_long_as_a_look_means_one_system() -> None:
    dot = Dot(x=1.0, y=1.0)
    one, other = (Panel(lines=[line(0, dot, label=name)]) for name in ("one", "other"))
    assert by_legend([one, one, other, other]) == [[one, one], [other, other]]
    assert [len(part.legends) for part in draw(one, one, other, other).subfigs] == [1, 1]


def test_a_legend_stands_where_a_panel_would_be_missing() -> None:
    panel = Panel(lines=[line(0, Dot(x=1.0, y=1.0))])
    figure = draw(panel, panel, panel)
    assert [axis.get_legend() is not None for axis in figure.axes] == [False] * 3 + [True]
    assert figure.subfigs[0].legends == []


def test_a_level_without_a_value_keeps_its_style_for_itself() -> None:
    levels = {"first": 1.0, "second": 2.0}
    styles = []
    for own in (levels, {**levels, "first": None}):
        (axis,) = draw(Panel(lines=[line(0, Dot(x=1.0, y=1.0))], levels=own)).axes
        styles.append({drawn.get_label(): drawn.get_linestyle() for drawn in axis.lines})
    assert styles[0]["second"] == styles[1]["second"]
    assert "first" not in styles[1]


def test_a_logarithmic_axis_says_so() -> None:
    panel = Panel(x_label="steps", lines=[line(0, Dot(x=1, y=1))], log_x=True, log_y=True)
    (axis,) = draw(panel).axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("steps, log scale", "log scale")


def test_a_bar_is_labelled_with_three_digits_or_all_before_the_point() -> None:
    (axis,) = draw(Panel(stages={f"{ms}": {"codec": ms} for ms in (9.876, 999.4, 999.7, 1e4)})).axes
    assert [text.get_text() for text in axis.texts] == [
        *("9.88 ms", "999 ms", "1,000 ms", "10,000 ms"),
    ]


def test_no_two_of_49_systems_look_alike() -> None:
    assert len({(look(i).color, look(i).marker) for i in range(len(COLORS) ** 2)}) == 49


def test_a_system_looks_alike_at_any_scale_step_and_training() -> None:
    names = ("calm-music-tiny", "models/calm-music-paper", "calm-music-tiny@seed1@500")
    assert len({looks({"a name": name})["a name"] for name in names}) == 1
    others = ("rq32-music", "calm-music", "calm-music-none", "trigflow-music", "mine", "theirs")
    found = looks({name: f"{name}-tiny" for name in others})
    assert len({(own.color, own.marker) for own in found.values()}) == len(others)
    alone = looks({"mine": "mine-tiny"})["mine"]
    assert alone == found["mine"]


def test_variants_of_a_system_differ_in_filling_alone() -> None:
    one, other = looks({"1 step": "calm-music-tiny", "4 steps": "calm-music-tiny"}).values()
    assert (one.color, one.marker) == (other.color, other.marker)
    assert one.fill != other.fill


@pytest.mark.parametrize(
    ("values", "expected"), [((1, 9), True), ((1, 8), False), ((0, 9), False), ((), False)]
)
def test_only_positive_values_are_far_apart(values: tuple[float, ...], expected: bool) -> None:
    assert far_apart(values) is expected


def test_a_figure_without_panels_has_no_file() -> None:
    assert render({"empty": Picture(title="empty", panels=[])}) == {}
