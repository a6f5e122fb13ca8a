"""Counts of every small system that is shipped, and how they differ from the stored ones."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from calm_bench.config import load_model_config
from calm_bench.core import paths
from calm_bench.core.progress import stage
from calm_bench.gate.baseline import Baseline, Lasting, Versioned, torch_key
from calm_bench.store.records import Stage
from calm_bench.types import Mode, SamplingParams

if TYPE_CHECKING:
    from calm_bench.speed.counts import StageCounts

SCALES = ("-tiny", "-debug")
MODES: tuple[Mode, Mode] = ("plain", "eager")

Found = Mapping[str, Mapping[Stage, "StageCounts"]]
"""Counts by system and stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A count that differs from the stored one."""

    system: str
    stage: Stage
    count: str
    before: int
    after: int

    @property
    def difference(self) -> str:
        """By how much, as it is printed."""
        percent = f" ({100 * (self.after / self.before - 1):+.1f} %)" if self.before else ""
        return f"{self.after - self.before:+,}{percent}"

    def __str__(self) -> str:
        """The change in one line."""
        name = self.count.replace("_", " ")
        return f"{self.system} {self.stage}: {name} {self.before:,} → {self.after:,}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What grew, what fell, how much was compared, and what could not be."""

    grown: tuple[Change, ...]
    fallen: tuple[Change, ...]
    compared: int
    notes: tuple[str, ...]


def counted_systems() -> list[Path]:
    """The folders of our own shipped systems of a few million parameters or fewer.

    Released systems bring their codec with them, and what they cost is their packages' business.
    """
    folders = [path.parent for path in paths.models_dirs()[-1].glob("*/config.yaml")]
    small = sorted(folder for folder in folders if folder.name.endswith(SCALES))
    configs = {folder: load_model_config(str(folder))[0] for folder in small}
    return [f for f, config in configs.items() if config.kind == "system" and config.codec]


def count_systems(folders: list[Path]) -> dict[str, dict[Stage, "StageCounts"]]:
    """The counts of each as it is loaded by default; the parameters are those of the plain step.

    A prepared system reads copies, of which nobody can say which parameters they were. Weights are
    random: no count depends on their values.
    """
    found = {}
    with stage("counting", len(folders)) as advance:
        for folder in folders:
            plain, fast = (_counted(folder, mode) for mode in MODES)
            found[folder.name] = {
                name: replace(counts, parameters=plain[name].parameters)
                for name, counts in fast.items()
            }
            advance(1)
    return found


def _counted(folder: Path, mode: Mode) -> dict[Stage, "StageCounts"]:
    from calm_bench.speed.counts import count_frame
    from calm_bench.systems.loading import load_system

    system = load_system(str(folder), mode=mode, random_weights=True)
    sampling = SamplingParams(
        temperature=1.0, text_temperature=1.0, head_steps=system.default_head_steps
    )
    return count_frame(system, sampling)


def stored(found: Found, baseline: Baseline) -> Baseline:
    """The baseline with these counts in place of its own; other torch versions' are kept."""
    counts = {
        system: {name: Lasting(**_of(counts, Lasting)) for name, counts in stages.items()}
        for system, stages in found.items()
    }
    dispatched = {
        system: {name: Versioned(**_of(counts, Versioned)) for name, counts in stages.items()}
        for system, stages in found.items()
    }
    versions = {**baseline.dispatched, torch_key(): dispatched}
    return baseline.model_copy(
        update={"counts": counts, "dispatched": dict(sorted(versions.items()))}
    )


def _of(counts: "StageCounts", part: type[Lasting] | type[Versioned]) -> dict[str, int]:
    return {name: value for name, value in asdict(counts).items() if name in part.model_fields}


def differences(found: Found, baseline: Baseline) -> Counted:
    """What differs from the baseline; what is not in it is said and passes nothing."""
    key = torch_key()
    changes: list[Change] = []
    notes, compared = [], 0
    versioned = baseline.dispatched.get(key)
    if versioned is None:
        known = ", ".join(baseline.dispatched) or "none"
        notes.append(
            f"operators and FLOPs are not gated: none are stored for {key} (stored: {known}); "
            "--update stores them"
        )
    for system, stages in found.items():
        if system not in baseline.counts:
            notes.append(f"{system} is not gated: the baseline lacks it; --update stores it")
            continue
        before: dict[Stage, dict[str, int]] = {
            name: counts.model_dump() for name, counts in baseline.counts[system].items()
        }
        for name, dispatched in (versioned or {}).get(system, {}).items():
            before.setdefault(name, {}).update(dispatched.model_dump())
        compared += sum(len(counts) for counts in before.values())
        changes += _changes(system, before, stages)
    gone = baseline.counts.keys() - found.keys()
    notes += [f"{system} is in the baseline and no longer here" for system in sorted(gone)]
    return Counted(
        grown=tuple(change for change in changes if change.after > change.before),
        fallen=tuple(change for change in changes if change.after < change.before),
        compared=compared,
        notes=tuple(notes),
    )


def _changes(
    system: str,
    before: Mapping[Stage, Mapping[str, int]],
    after: Mapping[Stage, "StageCounts"],
) -> list[Change]:
    return [
        Change(system=system, stage=name, count=count, before=old, after=new)
        for name, counts in before.items()
        for count, old in counts.items()
        if (new := getattr(after[name], count)) != old
    ]
