"""The rows of a benchmark: references, systems at each temperature, and what identifies each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from calm_bench.config import (
    REFERENCE_ROWS,
    BenchmarkSpec,
    SystemRow,
    load_model_config,
    model_names,
)
from calm_bench.errors import InputError, UnknownNameError, WeightsError
from calm_bench.seeds import content_hash
from calm_bench.store import Cell
from calm_bench.types import SamplingParams

__all__ = [
    "Models",
    "cells_of",
    "choose_systems",
    "compared_rows",
    "identity_of",
    "sampling_of",
]

ROUND_TRIP = "_round_trip"


def sampling_of(cell: Cell) -> SamplingParams:
    """How a system's row draws."""
    if cell.temperature is None or cell.text_temperature is None:
        raise ValueError(f"{cell.cell_id} is no system's row")
    return SamplingParams(
        temperature=cell.temperature,
        text_temperature=cell.text_temperature,
        head_steps=cell.head_steps or 1,
        top_k=cell.top_k or 0,
    )


class Models:
    """Configurations of the models a plan names, each read once."""

    def __init__(self) -> None:
        self.weights: dict[str, str | None] = {}
        self._identities: dict[tuple[str, str], str] = {}

    def identity(self, name: str, kind: Literal["system", "codec"]) -> str:
        """A hash of all that decides what the model does."""
        if (kind, name) not in self._identities:
            self._identities[kind, name] = self._read(name, kind)
        return self._identities[kind, name]

    def _read(self, name: str, kind: str) -> str:
        config, folder = load_model_config(name)
        if config.kind != kind:
            raise InputError(f"{name} is a {config.kind}; a {kind} is needed here")
        if config.weights and not (folder / config.weights.file).is_file():
            raise WeightsError(
                f"{name} has no weights: {folder / config.weights.file} does not exist; "
                f"calm-bench train {name} makes them"
            )
        self.weights[name] = config.weights.sha256 if config.weights else None
        codec = self.identity(config.codec, "codec") if config.codec else None
        content = [config.type, config.version, config.architecture, config.seed]
        return content_hash(content, self.weights[name], codec)


def choose_systems(spec: BenchmarkSpec, wanted: Sequence[str]) -> tuple[SystemRow, ...]:
    """Rows by model, by label or by the first part of their name; other models become new rows."""
    rows: dict[tuple[str, str], SystemRow] = {}
    for name in wanted:
        hits = [
            row
            for row in spec.systems
            if name in (row.model, row.label) or row.model.startswith(f"{name}-")
        ]
        if not hits and (name in model_names() or (Path(name) / "config.yaml").is_file()):
            hits = [SystemRow(model=name, label=Path(name).name)]
        if not hits:
            known = [n for n in model_names() if load_model_config(n)[0].kind == "system"]
            raise UnknownNameError("system", name, known)
        rows |= {(row.model, row.label): row for row in hits}
    return tuple(rows.values())


def cells_of(spec: BenchmarkSpec, text_temperature: float | None, models: Models) -> Iterator[Cell]:
    """Reference rows first, then every system at every temperature."""
    yield from (_reference_cell(spec, name, models) for name in spec.references)
    taken: set[str] = set()
    for row in spec.systems:
        models.identity(row.model, "system")
        for steps in row.head_steps:
            for temperature in spec.temperatures:
                cell = _system_cell(row, steps, temperature, text_temperature)
                names = (cell.cell_id, *(f"{cell.cell_id}-{i}" for i in range(2, 100)))
                name = next(name for name in names if name not in taken)
                taken.add(name)
                yield cell.model_copy(update={"cell_id": name})


def _system_cell(row: SystemRow, steps: int, temperature: float, text: float | None) -> Cell:
    name = f"{Path(row.model).name}-t{temperature:g}"
    name += f"-text{text:g}" if text not in (None, temperature) else ""
    name += f"-s{steps}" if len(row.head_steps) > 1 else ""
    return Cell(
        cell_id=name,
        label=row.label,
        kind="system",
        model=row.model,
        temperature=temperature,
        text_temperature=temperature if text is None else text,
        head_steps=steps,
        top_k=row.top_k,
        baseline=row.baseline,
    )


def _reference_cell(spec: BenchmarkSpec, name: str, models: Models) -> Cell:
    if name not in REFERENCE_ROWS:
        raise UnknownNameError("reference row", name, REFERENCE_ROWS)
    if not name.endswith(ROUND_TRIP):
        kind: Literal["reference", "silence"] = "silence" if name == "silence" else "reference"
        return Cell(cell_id=name, label=name.capitalize(), kind=kind)
    codec = name.removesuffix(ROUND_TRIP)
    if codec not in spec.codecs:
        raise InputError(f"{spec.name} has a row {name} but names no codec for {codec!r}")
    models.identity(spec.codecs[codec], "codec")
    label = f"{codec.upper()} round trip"
    return Cell(cell_id=name, label=label, kind="round_trip", model=spec.codecs[codec])


def identity_of(cell: Cell, models: Models) -> list[Any]:
    """All that decides what a row sounds like."""
    if cell.model is None:
        return [cell.kind]
    kind: Literal["system", "codec"] = "system" if cell.kind == "system" else "codec"
    drawn = [cell.temperature, cell.text_temperature, cell.head_steps, cell.top_k]
    return [cell.kind, models.identity(cell.model, kind), *drawn]


def compared_rows(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    """Pairs of rows whose difference is shown, the second one being subtracted.

    Every system against the baseline at the same temperatures, and every temperature of a system
    against its first.
    """
    systems = [cell for cell in cells if cell.kind == "system"]
    pairs = []
    for cell in systems:
        for other in systems:
            if _drawn(other) == _drawn(cell) and other.baseline and not cell.baseline:
                pairs.append((cell.cell_id, other.cell_id))
    for cell in systems:
        first = next(other for other in systems if _made_by(other) == _made_by(cell))
        if first is not cell:
            pairs.append((cell.cell_id, first.cell_id))
    return pairs


def _drawn(cell: Cell) -> tuple[float | None, float | None]:
    return cell.temperature, cell.text_temperature


def _made_by(cell: Cell) -> tuple[str | None, str, int | None, int | None]:
    return cell.model, cell.label, cell.head_steps, cell.top_k
