"""The paper's figures by name: where their panels come from, and what measures their data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from calm_bench.report.paper.panels import Panel, head_steps, quality_speed, temperature_sweep
from calm_bench.report.paper.runs import StoredRun
from calm_bench.report.paper.time_panels import (
    convergence,
    fad_over_time,
    latency_position,
    latency_split,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSpec:
    """One figure: its file name, what it shows, how to get its data, and its panels."""

    name: str
    title: str
    command: str
    panels: Callable[[StoredRun], Iterator[Panel]]


FIGURES = (
    FigureSpec(
        name="quality_vs_speed",
        title="Quality against speed",
        command="calm-bench run speech && calm-bench run music",
        panels=quality_speed,
    ),
    FigureSpec(
        name="temperature_sweep",
        title="Temperature sweep",
        command="calm-bench run speech --temps 0.8 1.0",
        panels=temperature_sweep,
    ),
    FigureSpec(
        name="fad_vs_head_steps",
        title="FAD against head steps",
        command="calm-bench run music --head-steps 1 4 10 25 50 100",
        panels=head_steps,
    ),
    FigureSpec(
        name="fad_over_time",
        title="FAD over time in the ablations",
        command="calm-bench run ablations",
        panels=fad_over_time,
    ),
    FigureSpec(
        name="convergence",
        title="Convergence with and without the head-batch multiplier",
        command="calm-bench train calm-music-tiny && "
        "calm-bench train calm-music-no-multiplier-tiny && calm-bench run ablations --checkpoints "
        "--systems calm-music-tiny calm-music-no-multiplier-tiny",
        panels=convergence,
    ),
    FigureSpec(
        name="latency_split",
        title="Where the time of a frame goes",
        command="calm-bench speed speech",
        panels=latency_split,
    ),
    FigureSpec(
        name="latency_vs_position",
        title="Time per frame against position",
        command="calm-bench speed speech  # its growth.jsonl must be kept with the run",
        panels=latency_position,
    ),
)
