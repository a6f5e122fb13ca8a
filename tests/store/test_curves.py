"""Loss curves beside a model's weights."""

from pathlib import Path

import pytest

from calm_bench.errors import InputError
from calm_bench.store.curves import FILE, CurvePoint, read_curve, write_curve


def point(seed: int, step: int, **losses: dict[str, float]) -> CurvePoint:
    return CurvePoint.model_validate(
        {"seed": seed, "step": step, "processor_seconds": 2.0 * step, **losses}
    )


def test_trainings_stand_side_by_side_and_one_repeated_replaces_itself(tmp_path: Path) -> None:
    assert read_curve(tmp_path) == []
    own = [point(0, 10, validation={"loss": 2.0}), point(0, 10, training={"loss": 1.5})]
    write_curve(tmp_path, 1, [point(1, 5, training={"loss": 3.0})])
    write_curve(tmp_path, 0, own)
    assert [(p.seed, p.step, bool(p.validation)) for p in read_curve(tmp_path)] == [
        (0, 10, False),
        (0, 10, True),
        (1, 5, False),
    ]
    before = (tmp_path / FILE).read_bytes()
    write_curve(tmp_path, 0, reversed(own))
    assert (tmp_path / FILE).read_bytes() == before
    write_curve(tmp_path, 0, [point(0, 20, training={"loss": 1.0})])
    assert [(p.seed, p.step) for p in read_curve(tmp_path)] == [(0, 20), (1, 5)]


@pytest.mark.parametrize("line", ["{", '{"seed": 0, "step": 1}', '{"seed": 0, "stp": 1}'])
def test_a_damaged_curve_is_one_line(tmp_path: Path, line: str) -> None:
    (tmp_path / FILE).write_text(line + "\n")
    with pytest.raises(InputError, match=rf"{FILE}:1: "):
        read_curve(tmp_path)


def test_another_loss_than_the_one_that_was_written_is_named(tmp_path: Path) -> None:
    write_curve(tmp_path, 0, [point(0, 5, training={"loss": 3.5})])
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes().replace(b"3.5", b"3.4"))
    with pytest.raises(InputError, match="checksum"):
        read_curve(tmp_path)
    path.write_text('{"seed": 0, "step": 5, "processor_seconds": 1.0}\n')  # of an older version
    assert len(read_curve(tmp_path)) == 1
