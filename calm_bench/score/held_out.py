"""What text streams expect of the words that were really said: held-out text loss.

The paper's demo page explains CALM's words by its backbone, which need not spend capacity on tokens
of audio. So each system with a text stream reads the benchmark's recordings, frames of its own
codec beside the true words, and predicts every token from what came before it. Counted are the
tokens that it would have had to draw itself: those that the prompt does not decide. No sampling
takes part, so one number holds for all temperatures of a system.

B recordings, T frames, S = T + lead steps.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from calm_bench import registry
from calm_bench.config import Models
from calm_bench.core.cache import ContentCache
from calm_bench.core.code import computed_by, version_of
from calm_bench.core.progress import stage
from calm_bench.core.ranks import Ranks
from calm_bench.data.prompts import PromptsAt
from calm_bench.errors import BenchError
from calm_bench.plan.plan import Plan
from calm_bench.score.clips import Firsts
from calm_bench.score.scorer import MetricScores
from calm_bench.seeds import content_hash, file_hash, recipe_id_of
from calm_bench.store.records import Row, ScoreRecord, TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.systems.grid import Grid
from calm_bench.types import Column, MetricResult

if TYPE_CHECKING:
    from calm_bench.data.prompts import LoadedPrompt
    from calm_bench.systems.loading import OpenModels
    from calm_bench.systems.streaming import StreamingSystem

TEXT_LOSS = (
    Column.of(
        *("text_nll", "text NLL", "nats/token", "word_nats", "word_tokens"),
        better=False,
        aggregate="ratio",
        near_normal=True,
    ),
    Column.of(
        *("text_stream_nll", "text stream NLL", "nats/frame", "stream_nats", "stream_tokens"),
        better=False,
        aggregate="ratio",
        near_normal=True,
    ),
)
"""Loss of the words' tokens, and of all tokens, PAD and EPAD (when to speak) included."""

METRIC = "text_nll"
SCORED = "recordings after the prompt, teacher-forced on true words and frames"


Losses = dict[str, dict[str, float | None]]
"""By prompt, losses in nats and numbers of tokens."""
_LOSSES = TypeAdapter(Losses)


class HeldOut:
    """The text loss of systems with a text stream on every prompt, each recorded once.

    Prompts without known words are left out, as are systems without a text stream; both say so
    where their numbers would stand.
    """

    def __init__(
        self, plan: Plan, store: RunStore, opened: "OpenModels", prompts_at: PromptsAt
    ) -> None:
        """What is recorded already is kept; `prompts_at` has the prompts at a sample rate."""
        self.plan, self.store, self.opened, self._prompts_at = plan, store, opened, prompts_at
        self._known = {r.trial_id for r in store.read(ScoreRecord) if r.metric == METRIC}
        self._cache = ContentCache("losses")
        self._found: dict[str, Losses] = {}

    def read(self, rows: Sequence[Row], ranks: Ranks) -> None:
        """Let one system read the recordings while it is open, if a loss of its rows is missing.

        Of several ranks one does it, and the others find it in the cache.
        """
        model, cells = str(rows[0].model), self._cells(rows)
        trials = (t for b in self.plan.batches for t in b.trials if t.cell_id in cells)
        missing = any(trial.trial_id not in self._known for trial in trials)
        if missing and ranks.take("text", model):
            self._losses(model, rows[0].label)

    def record(self, rows: Sequence[Row]) -> None:
        """The missing losses of the clips of one system's rows."""
        cells = self._cells(rows)
        trials = [
            trial
            for trial in self.store.read(TrialRecord)
            if trial.cell_id in cells and trial.status == "ok" and trial.trial_id not in self._known
        ]
        if trials:
            self.store.append(*self._records(rows[0], trials))

    def _cells(self, rows: Sequence[Row]) -> set[str]:
        """Those of one system's rows that have losses."""
        cells = {row.cell_id for row in rows if row.kind == "system" and _is_exact(row)}
        return cells if cells and self._streams(str(rows[0].model)) else set()

    def _streams(self, model: str) -> bool:
        """Whether its text is of our kind; another package's may not be."""
        from calm_bench.systems.streaming import StreamingSystem

        config = self.plan.models[model][0]
        if not config.architecture.get("text"):
            return False
        return issubclass(registry.load("system", config.type), StreamingSystem)

    def _records(self, row: Row, trials: Sequence[TrialRecord]) -> Iterator[ScoreRecord]:
        """One record per clip; clips of one prompt share their values."""
        model = str(row.model)
        values = self._losses(model, row.label)
        recipe_id = recipe_id_of({"metric": METRIC, **_recipe(model, self.plan.models)})
        for trial in trials:
            yield ScoreRecord(
                metric=METRIC,
                recipe_id=recipe_id,
                cell_id=trial.cell_id,
                trial_id=trial.trial_id,
                clip_id=str(trial.clip_id),
                values=values.get(trial.prompt_id, dict.fromkeys(_FIELDS)),
                note=None if trial.prompt_id in values else "the recording's words are not known",
            )

    def _losses(self, model: str, label: str) -> Losses:
        """By prompt whose words are known, the losses in nats and the numbers of tokens."""
        if model not in self._found:
            key = self._key(model)
            found = self._cache.read(key, _LOSSES.validate_python)
            if found is None:
                found = self._computed(model, label)
                self._cache.write(key, found)
            self._found[model] = found
        return self._found[model]

    def _key(self, model: str) -> str:
        """All that a system's losses depend on."""
        plan, config = self.plan, self.plan.models[model][0]
        kind, _, _ = registry.target("system", config.type).partition(":")
        return content_hash(
            *("losses", computed_by(__name__, kind), plan.models.identity(model, "system")),
            *(version_of("torch"), self.opened.device.partition(":")[0]),
            _recipe(model, plan.models),
            *(plan.spec.prompt_seconds, plan.spec.seconds, plan.spec.batch_size, plan.spec.asr),
            [prompt.model_dump(mode="json") for prompt in plan.prompts],
            length=40,
        )

    def _computed(self, model: str, label: str) -> Losses:
        plan = self.plan
        known = [prompt for prompt in plan.prompts if prompt.words or prompt.text]
        if not known:
            return {}
        system: StreamingSystem = self.opened.system(model, "fp32")  # type: ignore[assignment]
        prompts = self._prompts_at(system.codec.sample_rate)
        loaded = [prompts.load(prompt) for prompt in known]
        told = [prompt for prompt in loaded if prompt.text_source == "given" and prompt.words]
        values: Losses = {}
        with stage(f"{label}, held-out text", len(told)) as advance:
            for first in range(0, len(told), plan.spec.batch_size):
                batch = told[first : first + plan.spec.batch_size]
                found = text_losses(system, batch, plan.spec.prompt_seconds)
                values |= {prompt.id: row for prompt, row in zip(batch, found, strict=True)}
                advance(len(batch))
        return values


_FIELDS = tuple(name for column in TEXT_LOSS for name in column.fields)


def _recipe(model: str, models: Models) -> dict[str, Any]:
    """What the losses depend on besides the system; a folder that is gone tells no tokenizer."""
    try:
        config, folder = models[model]
        name = (config.architecture.get("text") or {}).get("tokenizer")
        tokenizer = "bytes" if name is None else file_hash(folder / name)[:12]
    except (BenchError, OSError):
        tokenizer = None
    return {"scored": SCORED, "tokenizer": tokenizer}


def _is_exact(row: Row) -> bool:
    """Whether a row runs in float32, as the modules do that read the recordings."""
    return row.precision in (None, "fp32")


def text_losses(
    system: "StreamingSystem", prompts: Sequence["LoadedPrompt"], prompt_seconds: float
) -> list[dict[str, float | None]]:
    """Summed losses in nats and counts of tokens of each recording after its prompt.

    Recordings may differ in length: every stream is causal, so what pads the shorter ones at their
    end is seen by nothing that counts.
    """
    import torch
    from torch.nn import functional as F

    from calm_bench.systems.monologue import EPAD, FREE, PAD

    assert system.text_stream is not None
    grid, lead = Grid.of(system.codec), system.lead
    counts = [len(prompt.wave) // grid.hop_length for prompt in prompts]
    given = grid.frames(prompt_seconds)
    T, rows = max(counts), [prompt.words or () for prompt in prompts]
    waves = torch.zeros(len(prompts), T * grid.hop_length)
    for row, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
        samples = count * grid.hop_length
        waves[row, :samples] = torch.from_numpy(prompt.wave[:samples])
    stream = system.text_stream
    tokens = torch.stack([torch.from_numpy(stream.encode(words, T + lead)) for words in rows])
    known = torch.from_numpy(stream.given(rows, [given] * len(rows), T + lead))
    steps = torch.arange(T + lead)
    drawn = (known == FREE) & (steps < torch.tensor(counts)[:, None])  # [B, S]
    with torch.inference_mode():
        frames = system.codec.encode(waves.to(system.device))
        frames = frames if system.codec.continuous else frames.transpose(1, 2)
        logits = system.text_head(system.contexts(frames, tokens.to(system.device))).float()
        losses = F.cross_entropy(logits.cpu().transpose(1, 2), tokens, reduction="none").double()
    words = drawn & (tokens != PAD) & (tokens != EPAD)
    sums = [(losses * words).sum(1), words.sum(1), (losses * drawn).sum(1), drawn.sum(1)]
    table = torch.stack([s.double() for s in sums], dim=1).tolist()
    return [dict(zip(_FIELDS, row, strict=True)) for row in table]


def held_out_scores(rows: Sequence[Row], store: RunStore, models: Models) -> list[MetricScores]:
    """The recorded losses as scores of a run, one for each tokenizer; none where none is recorded.

    Losses under different tokenizers are of different events, so they never share a column.
    """
    by_recipe: dict[str, list[ScoreRecord]] = {}
    wanted = {row.cell_id for row in rows}
    for record in store.read(ScoreRecord):
        if record.metric == METRIC and record.cell_id in wanted:
            by_recipe.setdefault(record.recipe_id, []).append(record)
    prompts = {trial.trial_id: trial.prompt_id for trial in store.read(TrialRecord)}
    return [_scores(rows, recipe_id, r, prompts, models) for recipe_id, r in by_recipe.items()]


def _scores(
    rows: Sequence[Row],
    recipe_id: str,
    records: Sequence[ScoreRecord],
    prompts: Mapping[str, str],
    models: Models,
) -> MetricScores:
    results: dict[str, MetricResult] = {}
    alike: dict[str, Firsts] = {}
    for row in rows:
        own = [record for record in records if record.cell_id == row.cell_id]
        if own:
            clips = {record.trial_id: record.values for record in own}
            notes = {record.trial_id: record.note for record in own if record.note}
            results[row.cell_id] = MetricResult(clips=clips, notes=notes)
            known: dict[str, str] = {}  # the recording is read, which is the same in every draw
            alike[row.cell_id] = {i: known.setdefault(prompts.get(i, i), i) for i in clips}
    model = next(str(row.model) for row in rows if row.cell_id in results)
    return MetricScores(
        metric=METRIC,
        columns=TEXT_LOSS,
        recipe=_recipe(model, models),
        recipe_id=recipe_id,
        results=results,
        alike=alike,
        reasons={
            row.cell_id: "no text stream that could predict the words of the recordings"
            if _is_exact(row)
            else "predicted in float32 alone"
            for row in rows
            if row.cell_id not in results
        },
    )
