"""What a comparison with other packages writes down: the machine once, and every timed block."""

from typing import ClassVar

from calm_bench.store.records import Record
from calm_bench.types import StrictModel


class Machine(StrictModel):
    """machine.json: where and with what the blocks were timed; one folder holds one of these."""

    processor: str
    cores: int
    threads: int
    python: str
    versions: dict[str, str | None]
    calm_bench: str
    commit: str | None
    command: tuple[str, ...]
    started: str

    def differs(self, other: "Machine") -> list[str]:
        """In what two descriptions differ that keeps their times apart."""
        names = ("processor", "threads", "versions", "calm_bench", "commit")
        return [name for name in names if getattr(self, name) != getattr(other, name)]


class Block(Record):
    """A number of calls in a row, timed as one.

    Attributes:
        item: `pair/name` of what was timed.
        arm: The package, or our code at a precision.
        order: The arm's place in the round, which is drawn anew for each.
        cpu_ns: Time the processor worked for it: the calling thread's on one thread, else the
            process's.
    """

    file: ClassVar[str] = "blocks.jsonl"
    key_fields: ClassVar[tuple[str, ...]] = ("item", "arm", "round")

    item: str
    arm: str
    round: int
    order: int
    calls: int
    frames: int
    wall_ns: int
    cpu_ns: int
