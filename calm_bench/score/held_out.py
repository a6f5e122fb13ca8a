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

from calm_bench.config import Models
from calm_bench.core.progress import stage
from calm_bench.data.prompts import PromptShelf
from calm_bench.errors import BenchError
from calm_bench.plan.plan import Plan
from calm_bench.score.clips import Firsts
from calm_bench.score.scorer import MetricScores
from calm_bench.seeds import file_hash, recipe_id_of
from calm_bench.store.records import Row, ScoreRecord, TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.systems.grid import Grid
from calm_bench.types import Column, MetricResult

if TYPE_CHECKING:
    from calm_bench.data.prompts import LoadedPrompt
    from calm_bench.systems.streaming import StreamingSystem

TEXT_LOSS = (
    Column.of(
        *("text_nll", "text NLL", "nats/token", "word_nats", "word_tokens"),
        better=False,
        aggregate="ratio",
    ),
    Column.of(
        *("text_stream_nll", "text stream NLL", "nats/frame", "stream_nats", "stream_tokens"),
        better=False,
        aggregate="ratio",
    ),
)
"""Loss of the words' tokens, and of all tokens, PAD and EPAD (when to speak) included."""

METRIC = "text_nll"
SCORED = "recordings after the prompt, teacher-forced on true words and frames"


def hold_out(plan: Plan, store: RunStore, device: str) -> None:
    """Record the text loss of every system of a plan that has a text stream, on every prompt.

    What is recorded already is kept. Prompts without known words are left out, as are systems
    without a text stream; both say so where their numbers would stand.
    """
    groups = _missing(plan, store)
    if not groups:
        return
    with stage("held-out text", len(groups)) as advance:
        for model, trials in groups.items():
            store.append(*_records(plan, model, trials, device))
            advance(1)


def _missing(plan: Plan, store: RunStore) -> dict[str, list[TrialRecord]]:
    """By model with a text stream, its clips that have no record yet."""
    known = {r.trial_id for r in store.read(ScoreRecord) if r.metric == METRIC}
    rows = [row for row in plan.rows if row.kind == "system" and _is_exact(row)]
    models = {row.cell_id: str(row.model) for row in rows}
    speaks = {m: bool(plan.models[m][0].architecture.get("text")) for m in models.values()}
    groups: dict[str, list[TrialRecord]] = {}
    for trial in store.read(TrialRecord):
        model = models.get(trial.cell_id)
        if model and speaks[model] and trial.status == "ok" and trial.trial_id not in known:
            groups.setdefault(model, []).append(trial)
    return groups


def _is_exact(row: Row) -> bool:
    """Whether a row runs in float32, as the modules do that read the recordings."""
    return row.precision in (None, "fp32")


def _records(
    plan: Plan, model: str, trials: Sequence[TrialRecord], device: str
) -> Iterator[ScoreRecord]:
    """One record per clip; clips of one prompt share their values."""
    from calm_bench.systems.loading import load_system
    from calm_bench.systems.streaming import StreamingSystem

    system = load_system(model, device, models=plan.models)
    if not isinstance(system, StreamingSystem):  # another package's, with a text of its own kind
        return
    shelf = PromptShelf(plan.spec, plan.root, system.codec.sample_rate)
    loaded = [shelf.load(prompt) for prompt in plan.prompts]
    told = [prompt for prompt in loaded if prompt.text_source == "given" and prompt.words]
    values: dict[str, dict[str, float | None]] = {}
    for first in range(0, len(told), plan.spec.batch_size):
        batch = told[first : first + plan.spec.batch_size]
        found = text_losses(system, batch, plan.spec.prompt_seconds)
        values |= {prompt.id: row for prompt, row in zip(batch, found, strict=True)}
    recipe_id = recipe_id_of({"metric": METRIC, **_recipe(model, plan.models)})
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
        reasons={c.cell_id: _why_none(c) for c in rows if c.cell_id not in results},
    )


def _why_none(row: Row) -> str:
    if not _is_exact(row):
        return "predicted in float32 alone"
    return "no text stream that could predict the words of the recordings"
