"""The manifest that a planned run begins with: what was planned, when, and on which machine."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from calm_bench.environment import describe_environment
from calm_bench.store import Cell, Manifest


class _Spec(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...


class _Planned(Protocol):
    """What every plan says of itself."""

    @property
    def run_id(self) -> str: ...
    @property
    def spec(self) -> _Spec: ...
    @property
    def plan_hash(self) -> str: ...
    @property
    def weights(self) -> Mapping[str, str | None]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


def manifest_of(
    plan: _Planned,
    cells: Sequence[Cell],
    device: str,
    command: Sequence[str],
    **options: Any,
) -> Manifest:
    """The manifest of a plan; `options` are what its kind of run keeps beside cells and notes."""
    return Manifest(
        run_id=plan.run_id,
        benchmark=plan.spec.name,
        version=plan.spec.version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=tuple(command),
        plan_hash=plan.plan_hash,
        options={
            **options,
            "cells": [cell.model_dump(mode="json") for cell in cells],
            "notes": list(plan.notes),
        },
        environment=describe_environment(device),
        weights=dict(plan.weights),
    )
