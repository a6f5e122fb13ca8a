"""The stored runs a ledger is made of: what they hold, and whether one ledger may hold them.

A stored run is a folder with results.json, and manifest.json, which says by which weights and code
its clips, times and scores were made. Where the code of one concern, a metric's recipe, a model's
weights or the prompts differ from those of the oldest run, the numbers that they decide stand
beside its numbers, never among them, and are named. Times depend on no weights and no prompts.

What claims, tables and figures ask for is looked up by its name; a few names stand for what a run
stores under another, and this file alone knows them:

    fad_first, fad_last   FAD over time, of the first and the last segment of the continuations
    fad_half_trained      FAD of the last checkpoint kept before half of the training
    seconds_for_30s       thirty times the RTF
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from calm_bench.core.files import is_there
from calm_bench.core.paths import runs_dir
from calm_bench.errors import InputError, UnknownNameError
from calm_bench.numbers.speed import SPEED_COLUMNS
from calm_bench.numbers.trainings import pooled_rows
from calm_bench.seeds import training_of
from calm_bench.store.records import GrowthRecord, Manifest, Row, temperature_text
from calm_bench.store.results import Results, Value
from calm_bench.store.run_store import RunStore

Scale = Literal["tiny", "paper", "released"]
SCALES: tuple[Scale, ...] = get_args(Scale)
STORED_AS = {
    "fad_first": "fad",
    "fad_half_trained": "fad",
    "fad_last": "fad",
    "seconds_for_30s": "rtf",
}
SPEED_METRICS = frozenset(column.name for column in SPEED_COLUMNS) | {"seconds_for_30s"}
"""What random weights measure as well as trained ones."""

OF_THE_MODEL = SPEED_METRICS | {"text_nll"}
"""One number for all temperatures: a temperature changes neither shapes nor the text's loss."""

_SEGMENT = re.compile(r"fad@(?P<start>\d+(?:\.\d+)?)-(?P<end>\d+(?:\.\d+)?)s")
_MODEL = re.compile(r"(?P<base>.+?)(-(?P<scale>tiny|paper|debug))?(@seed\d+)?(@(?P<step>\d+))?")


class ModelName(NamedTuple):
    """The parts of a model's name: calm-music-tiny@2000 is calm-music, tiny, after 2,000 steps."""

    base: str
    scale: str | None = None
    step: int | None = None

    @classmethod
    def of(cls, model: str) -> "ModelName":
        """The parts of a name or of a folder's path."""
        if (found := _MODEL.fullmatch(Path(model).name)) is None:
            return cls(model)
        return cls(found["base"], found["scale"], int(found["step"]) if found["step"] else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A finished run as it lies on disk.

    Attributes:
        manifest: None where it was not kept.
        oldest: The first run that shows a model of this one, directly or through others; None if
            it is this one.
        replaced: By model whose weights are not those of the first run that shows it, the first
            run that has them.
        prompted: What sets its prompts apart from those of the first run of the same list; "" if
            nothing does.
        lasting: How long its clips are and what of them was given, where that is not as in the
            first run of the same list; "" where it is.
    """

    name: str
    results: Results
    manifest: Manifest | None
    growth: tuple[GrowthRecord, ...] = ()
    oldest: "StoredRun | None" = None
    replaced: Mapping[str, str] = field(default_factory=dict)
    prompted: str = ""
    lasting: str = ""

    @property
    def weights(self) -> dict[str, str | None]:
        """The sha256 of each model's weights, None for random ones; empty without a manifest."""
        return self.manifest.weights if self.manifest else {}

    def prompts_behind(self, n_clips: int) -> int:
        """Of how many prompts so many clips are at most: copies of one recording are one clip."""
        options = self.manifest.options if self.manifest else {}
        return min(n_clips, len(options.get("prompts", ())) or n_clips)

    @property
    def models(self) -> set[str]:
        """The systems and codecs behind its rows."""
        of_rows = {row.model for row in self.results.cells if row.model is not None}
        return of_rows | set(self.weights)

    @property
    def other_code(self) -> dict[str, str]:
        """The code of the concerns that were not made by that of the oldest run."""
        if self.manifest is None or self.oldest is None or self.oldest.manifest is None:
            return {}
        before = self.oldest.manifest.code
        return {name: code for name, code in self.manifest.code.items() if code != before[name]}

    def apart(self, *values: Value) -> str:
        """What keeps numbers from being compared with those of the oldest run; "" if nothing."""
        return ", ".join(dict.fromkeys(part for value in values for part in self._apart(value)))

    def _apart(self, value: Value) -> Iterator[str]:
        timed = value.metric in SPEED_METRICS
        for name, hashed in self.other_code.items():
            if name in ({"times"} if timed else {"clips", "scores"}):
                yield f"{name} by code {hashed[:8]}"
        if timed:
            return
        row = next(row for row in self.results.cells if row.cell_id == value.cell_id)
        drawn = "" if value.metric in OF_THE_MODEL else _drawn_apart(row)
        yield from filter(None, (self.prompted, self.lasting, drawn, self._weights_apart(row)))
        if (known := self._known_recipes(value)) and value.recipe_id not in known:
            yield f"recipe {str(value.recipe_id)[:8]}"

    def _weights_apart(self, row: Row) -> str:
        """Which weights a row has, where an older run shows the model with others."""
        if row.model is None:
            return ""
        # A codec's are those of all systems here: which of them uses it is not on record.
        codecs = sorted(self.replaced.keys() - self._systems) if row.kind == "system" else ()
        # A training that no older run shows has no other recipe than the model's own weights.
        names = (row.model, row.system[0], *codecs)
        return next((f"weights of {self.replaced[n]}" for n in names if n in self.replaced), "")

    @property
    def _systems(self) -> set[str]:
        """The systems of all its rows, be they shown or not."""
        kept = self.manifest.options.get("cells", ()) if self.manifest else ()
        rows = [*self.results.cells, *(Row.model_validate(row) for row in kept)]
        names = {row.model for row in rows if row.kind == "system" and row.model is not None}
        return names | {training_of(name)[0] for name in names}

    def _known_recipes(self, value: Value) -> set[str | None]:
        """By which recipes the oldest run holds what a number is of, through its instrument."""
        if self.oldest is None:
            return set()
        by, old = self.instrument(value.recipe_id), self.oldest
        values = (r for r in old.results.rows if r.metric == value.metric and r.value is not None)
        return {r.recipe_id for r in values if old.instrument(r.recipe_id) == by}

    def values(self, metric: str, row: Row) -> list[Value]:
        """A row's values of a metric, by each recipe, under whatever name the run stores them."""
        values = [value for value in self.results.rows if value.cell_id == row.cell_id]
        if metric in ("fad_first", "fad_last"):
            points = segments(values)
            at = sorted({x for x, _ in points})
            wanted = at[0 if metric == "fad_first" else -1] if len(at) > 1 else None
            return [value for x, value in points if x == wanted]
        found = [value for value in values if value.metric == STORED_AS.get(metric, metric)]
        if metric != "seconds_for_30s":
            return found
        return [rtf.scaled(30, metric="seconds_for_30s", unit="s") for rtf in found]

    def recipe(self, recipe_id: str | None) -> Mapping[str, Any]:
        """What numbers of a recipe depend on; empty where none was recorded."""
        return self.results.recipes.get(recipe_id or "", {})

    def instrument(self, recipe_id: str | None) -> str | None:
        """The language model or embedding of a recipe; numbers of two of them do not compare."""
        recipe = self.recipe(recipe_id)
        lm = recipe.get("lm")
        if isinstance(lm, Mapping) and "model" in lm:
            return str(lm["model"])
        return str(recipe["embedding"]) if "embedding" in recipe else None

    def timed_on(self, value: Value) -> str:
        """On what, in what and how a time was measured."""
        recipe = self.recipe(value.recipe_id)
        return ", ".join(str(recipe[n]) for n in ("device", "dtype", "mode") if n in recipe)

    @property
    def scales(self) -> list[Scale]:
        """The scales of its models."""
        found = {scale_of(row) for row in self.results.cells if row.model is not None}
        return [scale for scale in SCALES if scale in found]

    def by_step(self) -> dict[str, "StoredRun"]:
        """The run as it is, or a run for each mode and precision that its rows were timed in."""
        rows: dict[str, list[Row]] = {}
        for row in self.results.cells:
            step = f"{row.mode} {row.precision}" if row.mode else ""
            rows.setdefault(step, []).append(row)
        return {step: self._of(found) for step, found in rows.items()}

    def by_training(self) -> dict[str, "StoredRun"]:
        """The run as it is, or a run for each training with its rows and those of none."""
        rows = self.results.cells
        parts = {
            f"training {seed}": self._of(row for row in rows if row.training in (None, seed))
            for seed in sorted({row.training for row in rows if row.training is not None})
        }
        return parts or {"": self}

    def over_trainings(self) -> dict[str, "StoredRun"]:
        """The run as it is, or with the means of several trainings as the first one's values.

        Systems of which it has one training are a run of their own then.
        """
        groups = pooled_rows(self.results.cells)
        if not groups:
            return {"": self}
        pools = {(p.cell_ids[0], p.metric, p.recipe_id): p for p in self.results.pooled}
        values = []
        for value in self.results.rows:
            pool = pools.get((value.cell_id, value.metric, value.recipe_id))
            ends = ("value", "low", "high", "reason") if pool else ()
            values.append(value.model_copy(update={end: getattr(pool, end) for end in ends}))
        firsts = {group[0].cell_id for group in groups}
        others = {row.cell_id for group in groups for row in group[1:]}
        rows = [row for row in self.results.cells if row.cell_id not in others]
        alone = [row for row in rows if row.training is not None and row.cell_id not in firsts]
        means = replace(self, results=self.results.model_copy(update={"rows": tuple(values)}))
        found = {"mean of trainings": means._of(row for row in rows if row not in alone)}
        return found | ({"one training": self._of(alone)} if alone else {})

    def _of(self, rows: Iterable[Row]) -> "StoredRun":
        return replace(self, results=self.results.model_copy(update={"cells": tuple(rows)}))


def scale_of(row: Row) -> Scale | None:
    """The scale of a row's model; None for rows without a model, which belong to every scale."""
    if row.model is None:
        return None
    scale = ModelName.of(row.model).scale
    return "released" if scale is None else "paper" if scale == "paper" else "tiny"


def is_part(row: Row) -> bool:
    """Whether a row is of part of a model: a checkpoint on the way, or a codec's first levels."""
    on_the_way = row.model is not None and ModelName.of(row.model).step is not None
    return on_the_way or row.levels is not None


def rows_for(metric: str, rows: Sequence[Row]) -> list[Row]:
    """Those of a model's rows that a metric is about: the whole model, or a half-trained one."""
    if metric != "fad_half_trained":
        return [row for row in rows if not is_part(row)]
    steps = {ModelName.of(row.model).step or 0: row for row in rows if row.model is not None}
    early = [step for step in steps if 0 < step <= max(steps) / 2]
    return [steps[max(early)]] if early else []


def segments(values: Iterable[Value]) -> list[tuple[float, Value]]:
    """The FAD of successive segments, each with its middle in seconds, in order of time."""
    matches = ((_SEGMENT.fullmatch(value.metric), value) for value in values)
    found = [((float(m["start"]) + float(m["end"])) / 2, value) for m, value in matches if m]
    return sorted(found, key=lambda point: point[0])


def find_stored(names: Sequence[str]) -> list[Path]:
    """Folders of runs by path or by id; without names, every run kept in ./results.

    Raises:
        UnknownNameError: If a name is no stored run.
        InputError: If there are no names and nothing is kept.
    """
    kept = sorted(path.parent for path in runs_dir().parent.glob("*/results.json"))
    if not names:
        if kept:
            return kept
        raise InputError(
            f"{runs_dir().parent} holds no stored run: name one, or make one with `calm-bench run`"
        )
    return [_find(name, kept) for name in names]


def _find(name: str, kept: Sequence[Path]) -> Path:
    for folder in (Path(name), runs_dir().parent / name, runs_dir() / name):
        if is_there(folder / "results.json"):
            return folder
    ids = (path.parent.name for path in runs_dir().glob("*/results.json"))
    raise UnknownNameError("stored run", name, [*(path.name for path in kept), *ids])


def read_stored(folders: Sequence[Path]) -> list[StoredRun]:
    """The runs in these folders, ordered by id, after checking that one ledger may hold them.

    Raises:
        InputError: If one cannot be read, is of debug models, or does not go with another.
    """
    runs = [_read(folder) for folder in dict.fromkeys(folder.resolve() for folder in folders)]
    check_names(runs)
    return sorted(with_oldest(runs), key=lambda run: run.name)


def with_oldest(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs in the order they were begun, each with the oldest that shows a model of it."""
    begun = sorted(runs, key=lambda run: (run.manifest.created if run.manifest else "", run.name))
    found: list[StoredRun] = []
    for run in begun:
        kin = next((known for known in found if known.models & run.models), None)
        run = replace(run, prompted=_prompted(run, found), lasting=_lasting(run, found))
        oldest = kin and (kin.oldest or kin)
        found.append(replace(run, oldest=oldest, replaced=_replaced(run, found)))
    return found


def _replaced(run: StoredRun, before: Sequence[StoredRun]) -> dict[str, str]:
    """By model whose weights an earlier run shows with others, the first run that has these."""
    found = {}
    for model, sha256 in run.weights.items():
        known = [(other.weights[model], other.name) for other in before if model in other.weights]
        if known and known[0][0] != sha256:
            found[model] = next((name for weights, name in known if weights == sha256), run.name)
    return found


def _prompted(run: StoredRun, before: Sequence[StoredRun]) -> str:
    """What sets a run's prompts apart from those of the first run of the same list of prompts."""
    if (listed := _listed(run)) is None:
        return ""
    own, version = _prompts(run), run.results.benchmark_version
    older = [other for other in before if _listed(other) == listed]
    alike = [other for other in older if other.results.benchmark_version == version]
    parts = []
    if older and older[0].results.benchmark_version != version:
        parts.append(f"version {version}")
    if alike and not _go_together(own, _prompts(alike[0])):
        first = next((o.name for o in alike if _go_together(own, _prompts(o))), run.name)
        parts.append(f"prompts of {first}")
    return ", ".join(parts)


def _lasting(run: StoredRun, before: Sequence[StoredRun]) -> str:
    """How long a run's clips are, where the first run of the same list of prompts has others."""
    listed = _listed(run)
    first = next((one for one in before if listed is not None and _listed(one) == listed), None)
    lengths, known = (_lengths(one) if one else None for one in (run, first))
    if lengths is None or known is None or lengths == known:
        return ""
    return f"clips of {lengths[0]:g} s, {lengths[1]:g} s given"


def _lengths(run: StoredRun) -> tuple[float, float] | None:
    """The seconds of a run's clips and of their prompts; None where that is not on record."""
    spec: dict[str, float] = (run.manifest.options.get("spec") if run.manifest else None) or {}
    if not {"seconds", "prompt_seconds"} <= spec.keys():
        return None
    return spec["seconds"], spec["prompt_seconds"]


def _drawn_apart(row: Row) -> str:
    """At which temperature a row's text was drawn, where its audio was at another one."""
    if row.text_temperature in (None, row.temperature):
        return ""
    return f"text temp {temperature_text(row.text_temperature)}"


def _listed(run: StoredRun) -> str | None:
    """The file of prompts that benchmarks share; None of a run that continues none."""
    spec = run.manifest.options.get("spec") if run.manifest else None
    return spec and str(spec["prompts"])


def _prompts(run: StoredRun) -> dict[str, str]:
    """The sha256 of each prompt by id; empty where a run did not record them."""
    options = run.manifest.options if run.manifest else {}
    return dict(zip(options.get("prompts", ()), options.get("prompts_sha256", ()), strict=False))


def _go_together(some: Mapping[str, str], others: Mapping[str, str]) -> bool:
    """Whether no prompt differs of those that two runs have, as far as that is known."""
    shared = some.keys() & others.keys()
    if some and others and not shared:
        return False
    return all(some[name] == others[name] for name in shared)


def _read(folder: Path) -> StoredRun:
    store = RunStore(folder)
    results = store.read_results()
    models = {row.model for row in results.cells if row.model}
    if debug := sorted(model for model in models if ModelName.of(model).scale == "debug"):
        raise InputError(
            f"{folder} is of {debug[0]}, whose random weights are for tests: a ledger needs a run "
            "of trained models or of the paper's shapes"
        )
    # Rows in a precision, but in no mode, were made to compare precisions: claims are not theirs.
    rows = tuple(row for row in results.cells if row.mode or not row.precision)
    return StoredRun(
        name=results.run_id,
        results=results.model_copy(update={"cells": rows}),
        manifest=store.read_manifest() if is_there(folder / "manifest.json") else None,
        growth=tuple(store.read(GrowthRecord)),
    )


def check_names(runs: Sequence[StoredRun]) -> None:
    """Refuse one run twice, and runs of which nothing says whether they show the same weights.

    Raises:
        InputError: Which two runs, and what is wrong.
    """
    for a, b in combinations(runs, 2):
        if a.name == b.name:
            raise InputError(f"two folders hold the run {a.name}: name only one of them")
        bare = next((run for run in (a, b) if run.manifest is None), None)
        if bare and (shared := sorted(a.models & b.models)):
            raise InputError(
                f"{a.name} and {b.name} cannot stand in one ledger: both show {shared[0]}, and "
                f"{bare.name} has no manifest.json to say by which weights; repeat it"
            )
