"""Faults that are planted to see that the campaigns find them: what finds none proves nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

from calm_bench.core import files
from calm_bench.core.cache import ContentCache
from calm_bench.errors import InputError
from calm_bench.store.run_store import RunStore


@dataclass(frozen=True)
class Plant:
    """One fault: what is put in something's place, and which cases of a campaign are to find it."""

    name: str
    owner: Any
    attribute: str
    fault: Any
    campaign: str
    part: str
    n: int | None = None


@contextmanager
def _in_place(path: Path, beside: Path | None = None) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        yield file


@contextmanager
def _unsynced(path: Path, beside: Path | None = None) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        yield file
    temporary.replace(path)


def _unchecked(data: bytes, where: object, about: str = "", *, always: bool = False) -> bytes:
    found = files._SEAL.search(data)
    return data if found is None else data[: found.start()] + b"}"


def _believed(self: ContentCache, key: str, fit: Any) -> Any:
    path = self.path(key)
    return fit(json.loads(path.read_bytes())["value"]) if path.is_file() else None


PLANTS = (
    Plant("written in place", files, "replacing", _in_place, "kills", "train", 60),
    Plant("renamed before it is synced", files, "replacing", _unsynced, "kills", "train", 60),
    Plant("nothing is swept", files, "sweep", lambda _: None, "kills", "score", 60),
    Plant(
        "torn lines stay", files, "_committed_size", lambda f: f.seek(0, 2), "kills", "score", 60
    ),
    Plant("checksums are not looked at", files, "unsealed", _unchecked, "damage", "cache"),
    Plant("the cache is believed", ContentCache, "read", _believed, "damage", "cache"),
    Plant("records are believed", files, "unsealed", _unchecked, "damage", "taken"),
    Plant("any folder is ours", RunStore, "refuse_foreign", lambda _: None, "inputs", "out"),
    Plant(
        "JSON is not caught", files, "json_value", lambda d, _: json.loads(d), "inputs", "prompts"
    ),
    Plant("another exit code", InputError, "exit_code", 1, "inputs", "score"),
)


@contextmanager
def planted(plant: Plant) -> Iterator[None]:
    """With a fault in the place of what is right, for this process and all children."""
    with mock.patch.object(plant.owner, plant.attribute, plant.fault):
        yield
