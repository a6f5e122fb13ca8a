"""Held-out losses of the trainings behind stored runs."""

from pathlib import Path

import pytest
import yaml
from rows import system
from stored_runs import around, make_run

from calm_bench.report.paper.figures import held_out_losses
from calm_bench.report.paper.runs import StoredRun
from calm_bench.store.curves import CurvePoint, write_curve


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredRun:
    """A run of two models of ./models, one of them at two steps, and of a model that is gone."""
    monkeypatch.chdir(tmp_path)
    names = ("calm-speech-tiny", "rq-speech-tiny", "rq-speech-tiny@5", "gone-tiny")
    cells = [system(name, name) for name in names]
    numbers = [(cell, {"wer": around(20.0)}) for cell in cells]
    return make_run(numbers, name="s", benchmark="speech")


def keep(
    model: str, seed: int, losses: dict[int, dict[str, float]], corpus: str = "speech"
) -> None:
    folder = Path("models") / model
    folder.mkdir(parents=True, exist_ok=True)
    config = {"kind": "system", "type": "rq", "description": "", "training": {"corpus": corpus}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    points = [
        CurvePoint(seed=seed, step=step, processor_seconds=(3 + seed) * step, validation=found)
        for step, found in losses.items()
    ]
    training = CurvePoint(seed=seed, step=1, processor_seconds=1, training={"text": 9.0})
    write_curve(folder, seed, [training, *points])


def test_trainings_are_one_line_with_their_spread(run: StoredRun) -> None:
    keep(
        "rq-speech-tiny", 0, {1000: {"text": 0.4, "codes": 4.0}, 2000: {"text": 0.3, "codes": 3.8}}
    )
    keep(
        "rq-speech-tiny", 1, {1000: {"text": 0.6, "codes": 4.2}, 2000: {"text": 0.4, "codes": 3.6}}
    )
    keep("calm-speech-tiny", 0, {1000: {"text": 0.7}, 2000: {"text": 0.6}})
    by_step, by_hours, *codes = held_out_losses([run, run], "speech")
    assert (by_step.x_label, by_hours.x_label) == ("training step", "processor hours")
    lines = {line.label: line.dots for line in by_step.lines}
    assert set(lines) == {"calm-speech-tiny", "rq-speech-tiny"}
    assert [(dot.x, dot.y_interval) for dot in lines["rq-speech-tiny"]] == [
        (1000, (0.4, 0.6)),
        (2000, (0.3, 0.4)),
    ]
    assert lines["rq-speech-tiny"][0].y == pytest.approx(0.5)
    assert lines["calm-speech-tiny"][0].y_interval is None
    hours = {line.label: [dot.x for dot in line.dots] for line in by_hours.lines}
    assert hours["rq-speech-tiny"] == pytest.approx([3500 / 3600, 7000 / 3600])
    assert "calm-speech-tiny 1, rq-speech-tiny 2" in by_step.caption
    assert [panel.title for panel in codes] == ["loss of a code, nats"] * 2
    assert [line.label for line in codes[0].lines] == ["rq-speech-tiny"]


def test_only_models_of_the_corpus_and_with_two_points_are_drawn(run: StoredRun) -> None:
    keep("rq-speech-tiny", 0, {1000: {"text": 0.4}})
    keep("calm-speech-tiny", 0, {1000: {"text": 0.7}, 2000: {"text": 0.6}}, corpus="music")
    assert list(held_out_losses([run], "speech")) == []
    assert len(list(held_out_losses([run], "music"))) == 2
