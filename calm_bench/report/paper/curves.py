"""How the models behind stored runs were trained: held-out losses, as kept beside their weights."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import mean

from calm_bench.config import load_model_config
from calm_bench.errors import UnknownNameError
from calm_bench.report.panels import Dot
from calm_bench.report.paper.runs import StoredRun
from calm_bench.store.curves import CurvePoint, read_curve

LOSSES = {
    "text": "loss of the text stream, nats",
    "plain_text": "loss of plain text, nats",
    "codes": "loss of a code, nats",
    "one_step_mse": "squared error of one-step samples",
    "flow": "flow-matching error",
}
"""What validations measure that several models have in common."""
AXES: dict[str, Callable[[CurvePoint], float]] = {
    "training step": lambda point: point.step,
    "processor hours": lambda point: point.processor_seconds / 3600,
}


def curves_of(runs: Sequence[StoredRun], corpus: str) -> dict[str, list[CurvePoint]]:
    """The validations of each system that runs show and that was trained on a corpus, by model."""
    rows = (row for run in runs for row in run.results.cells if row.kind == "system")
    found = {}
    for name in sorted({str(row.model).partition("@")[0] for row in rows}):
        try:
            config, folder = load_model_config(name)
        except UnknownNameError:  # of another checkout
            continue
        points = [point for point in read_curve(folder) if point.validation]
        if points and config.training.get("corpus") == corpus:
            found[folder.name] = points
    return found


def curve_dots(points: Sequence[CurvePoint], loss: str, axis: str) -> list[Dot]:
    """A loss at each step: the mean of the trainings that took it, with the least and the most."""
    steps: dict[int, list[CurvePoint]] = defaultdict(list)
    for point in points:
        if loss in point.validation:
            steps[point.step].append(point)
    dots = []
    for _, alike in sorted(steps.items()):
        values = [point.validation[loss] for point in alike]
        spread = (min(values), max(values)) if len(values) > 1 else None
        dots.append(Dot(x=mean(map(AXES[axis], alike)), y=mean(values), y_interval=spread))
    return dots
