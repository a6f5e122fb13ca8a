"""How panels are drawn: what axes show, where lines stand, and whose legend it is."""

import pytest

from calm_bench.report.panels import COLORS, Dot, Line, Panel, _draw, far_apart, look, render


def line(index: int, *dots: Dot, label: str = "") -> Line:
    return Line(label=label or f"system {index}", look=look(index), dots=dots)


def test_a_bar_that_reaches_zero_does_not_stretch_a_logarithmic_axis() -> None:
    dots = [Dot(x=x, y=y, x_interval=(low, 2 * x)) for y, (x, low) in enumerate([(2, 0), (40, 30)])]
    panel = Panel(names=["a", "b"], lines=[Line(look=look(0), dots=[d]) for d in dots], log_x=True)
    (axis,) = _draw([panel]).axes
    low, high = axis.get_xlim()
    assert 0.3 < low < 2
    assert high > 80
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "b"]


def test_lines_of_the_same_x_stand_beside_each_other_and_ticks_where_they_are() -> None:
    lines = [line(i, Dot(x=0.8, y=1.0), Dot(x=1.0, y=2.0)) for i in range(2)]
    (axis,) = _draw([Panel(lines=lines, shared_x=True)]).axes
    first, second = (container.lines[0].get_xdata() for container in axis.containers)
    assert [float(a + b) / 2 for a, b in zip(first, second, strict=True)] == pytest.approx([0.8, 1])
    assert 0 < second[0] - first[0] < 0.1
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0.8", "1.0"]


def test_an_axis_from_zero_hides_no_point_at_zero() -> None:
    def bottom(*ys: float) -> float:
        dots = [Dot(x=float(x), y=y) for x, y in enumerate(ys)]
        (axis,) = _draw([Panel(lines=[line(0, *dots)])]).axes
        return float(axis.get_ylim()[0])

    assert bottom(1.0, 5.0) == 0
    assert bottom(0.0, 5.0) < 0
    assert bottom(90.0, 100.0) > 80


def test_panels_in_which_a_look_means_two_systems_have_legends_of_their_own() -> None:
    dot = Dot(x=1.0, y=1.0)
    panels = [Panel(lines=[line(0, dot, label=name)]) for name in ("one", "other")]
    assert all(axis.get_legend() for axis in _draw(panels).axes)
    shared = _draw([panels[0], panels[0]])
    assert not any(axis.get_legend() for axis in shared.axes)
    assert len(shared.legends) == 1


def test_no_two_of_49_systems_look_alike() -> None:
    assert len({(look(i).color, look(i).marker) for i in range(len(COLORS) ** 2)}) == 49


@pytest.mark.parametrize(
    ("values", "expected"), [((1, 9), True), ((1, 8), False), ((0, 9), False), ((), False)]
)
def test_only_positive_values_are_far_apart(values: tuple[float, ...], expected: bool) -> None:
    assert far_apart(values) is expected


def test_a_figure_without_panels_has_no_file() -> None:
    assert render({"empty": []}) == {}
