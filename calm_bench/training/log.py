"""What a training run writes down: log.jsonl, and TensorBoard beside it where that is installed."""

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from calm_bench.files import committed_lines


class Means:
    """Running means of what steps log, until they are taken."""

    def __init__(self) -> None:
        """Start empty."""
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, logs: Mapping[str, float]) -> None:
        """Count one step."""
        self.count += 1
        for key, value in logs.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {key: value / self.count for key, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


def _scalars(record: Mapping[str, Any], prefix: str = "training") -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, key)
        elif isinstance(value, int | float):
            yield f"{prefix}/{key}", float(value)


class RunLog:
    """One JSON line per record in <folder>/log.jsonl, in step with the saved state."""

    def __init__(self, folder: Path) -> None:
        """Nothing is written yet."""
        self.path = folder / "log.jsonl"
        self._board: Any = None  # made by the first record: who only reads leaves no files

    def add(self, step: int, record: Mapping[str, Any]) -> None:
        """Append a record, and its numbers to TensorBoard."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **record}) + "\n")
        if find_spec("tensorboard") is None:
            return
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.path.with_name("tensorboard")))
        for name, value in _scalars(record):
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def records(self) -> list[dict[str, Any]]:
        """Every whole line; a kill may have left half of one."""
        return [json.loads(line) for line in committed_lines(self.path)]

    def cut(self, step: int) -> None:
        """Forget what was logged after a step."""
        if self.path.is_file():
            kept = [record for record in self.records() if record["step"] <= step]
            self.path.write_text("".join(json.dumps(record) + "\n" for record in kept))

    def last_validation(self) -> dict[str, float]:
        """The numbers of the last validation; empty if there was none."""
        found = [record["validation"] for record in self.records() if "validation" in record]
        return dict(found[-1]) if found else {}
