"""The clips of a run: each pending batch of the plan, from prompts to FLAC, one record per trial.

A batch counts once all its trials are recorded as ok; anything less is made again as a whole,
because a clip's last bits may depend on the batch it was in. Each trial draws from a generator of
its own, seeded by prompt and seed index, so neither the order of the rows nor a kill changes a
clip, nor which of several ranks makes it: each takes whole batches and records them apart.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from calm_bench.config import Models
from calm_bench.core import paths
from calm_bench.core.allocator import keep_freed_memory
from calm_bench.core.audio import audio_hash, resample, write_flac
from calm_bench.core.progress import stage
from calm_bench.core.ranks import ALONE, Ranks
from calm_bench.core.sounds import sounds_of
from calm_bench.data.prompts import LoadedPrompt, PromptsAt, PromptShelf
from calm_bench.errors import BenchError, InputError, called, describe
from calm_bench.generate.noise import noise_like
from calm_bench.metrics.fidelity import bit_rate
from calm_bench.plan.plan import Batch, Plan, Trial
from calm_bench.plan.rows import sampling_of
from calm_bench.store.records import Row, TrialRecord, row_title, swept
from calm_bench.store.run_store import RunStore
from calm_bench.systems.grid import Grid, system_prompt
from calm_bench.types import Estimate, TimedWord, Wave

if TYPE_CHECKING:
    from calm_bench.codecs.base import Codec
    from calm_bench.systems.base import Generation
    from calm_bench.systems.loading import OpenModels


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A clip before it is written: audio, where its continuation starts, and what it should say.

    Attributes:
        fault: Why it is no clip.
    """

    wave: Wave
    grid: Grid
    prompt_seconds: float
    words: tuple[TimedWord, ...] | None
    bit_rate: Estimate | None = None
    fault: str = ""


def pending_batches(plan: Plan, store: RunStore) -> list[Batch]:
    """The batches of which a clip is missing, has failed, or is not what its record says."""
    made = [r for r in store.read(TrialRecord) if r.status == "ok" and r.clip]
    clips = [paths.inside(store.root, str(record.clip)) for record in made]
    done = {
        record.trial_id
        for record, sound in zip(made, sounds_of(clips, "looking at clips"), strict=True)
        if not isinstance(sound, InputError) and sound.audio_id == record.clip_id
    }
    return [b for b in plan.batches if any(t.trial_id not in done for t in b.trials)]


class Studio:
    """Makes the clips of a plan that are still missing: of several ranks, each its part."""

    def __init__(
        self,
        plan: Plan,
        store: RunStore,
        opened: "OpenModels",
        prompts_at: PromptsAt,
        ranks: Ranks = ALONE,
    ) -> None:
        """Look at every prompt before any clip is made; `prompts_at` has them at a sample rate.

        Raises:
            BenchError: If a prompt cannot be used.
        """
        self.plan, self.store, self.opened, self._prompts_at = plan, store, opened, prompts_at
        self._ranks = ranks
        self._records = store if ranks.count == 1 else store.of_rank(ranks.rank)
        self._pending: defaultdict[str, list[Batch]] = defaultdict(list)
        for batch in ranks.share(partial(pending_batches, plan, store)):
            self._pending[batch.row.cell_id].append(batch)
        if self._pending:
            keep_freed_memory()
            if ranks.is_first:
                self.prompts.check(plan.prompts)

    def make(self, rows: Sequence[Row]) -> None:
        """Make every clip of these rows that is still missing and that this rank takes.

        Raises:
            BenchError: If a prompt or a model cannot be used, or a clip cannot be written. A trial
                that fails otherwise is recorded with its error, and the run goes on.
        """
        several = swept(self.plan.rows)
        for row in rows:
            if not (batches := self._pending.pop(row.cell_id, [])):
                continue
            n_left = sum(len(batch.trials) for batch in batches)
            total = len(self.plan.prompts) * self.plan.n_seeds
            title = row_title(row, several)
            with stage(title, total, total - n_left) as advance:
                for batch in batches:
                    if self._ranks.take("clips", batch.trials[0].trial_id):
                        self._records.append(*self._run(batch))
                    advance(len(batch.trials))

    def _run(self, batch: Batch) -> list[TrialRecord]:
        """Make a batch's clips and write them; what the disk or the user did wrong is raised."""
        prompts = [self.prompts.load(trial.prompt) for trial in batch.trials]
        self._open(batch.row)  # what cannot be built is no failed clip
        try:
            made = self.clips_of(batch, prompts)
        except BenchError:
            raise
        except Exception as error:
            text = describe(error)
            return [self._failed(t, p, text) for t, p in zip(batch.trials, prompts, strict=True)]
        rows = zip(batch.trials, prompts, made, strict=True)
        return [self._write(trial, prompt, clip) for trial, prompt, clip in rows]

    def _open(self, row: Row) -> None:
        if row.kind == "system":
            self.opened.system(str(row.model), row.precision or "fp32")
        elif row.kind == "round_trip":
            self.opened.codec(str(row.model))

    def _write(self, trial: Trial, prompt: LoadedPrompt, made: Made) -> TrialRecord:
        """Write one clip; audio that is not finite, or not as long as asked, is a failed trial."""
        if made.fault:
            return self._failed(trial, prompt, made.fault)
        if not np.isfinite(made.wave).all():
            return self._failed(trial, prompt, "the audio holds NaN or infinite samples")
        rate, words = made.grid.sample_rate, made.words
        written = write_flac(self.store.path(trial.clip), made.wave, rate)
        return _record(
            trial,
            prompt,
            status="ok",
            clip=trial.clip,
            clip_id=audio_hash(written, rate),
            sample_rate=rate,
            prompt_seconds=made.prompt_seconds,
            words=None if words is None else tuple((w.word, w.start, w.end) for w in words),
            bit_rate=made.bit_rate,
        )

    def _failed(self, trial: Trial, prompt: LoadedPrompt, error: str) -> TrialRecord:
        seconds = self.plan.spec.prompt_seconds
        return _record(trial, prompt, status="failed", error=error, prompt_seconds=seconds)

    @cached_property
    def grid(self) -> Grid:
        """The frames of the reference rows: those of the first codec that the benchmark names."""
        spec = self.plan.spec
        names = [row.model for row in spec.codecs.values()]
        names += [self.plan.models[row.model][0].codec or "" for row in spec.systems]
        name = next((name for name in names if name), None)
        if name is None:
            raise BenchError(
                f"{spec.name} has neither a codec nor a system: its frames are unknown"
            )
        return Grid.of(self.opened.codec(name))

    @property
    def prompts(self) -> PromptShelf:
        """At the rate of the reference rows."""
        return self._prompts_at(self.grid.sample_rate)

    def clips_of(self, batch: Batch, prompts: Sequence[LoadedPrompt]) -> list[Made]:
        """The clips of a batch, in the order of its trials."""
        if batch.row.kind == "system":
            return self._continue(batch, prompts)
        if batch.row.kind == "round_trip":
            return self._round_trip(batch, prompts)
        pairs = zip(prompts, batch.trials, strict=True)
        return [self._reference(prompt, batch.row, trial.seed) for prompt, trial in pairs]

    def _reference(self, prompt: LoadedPrompt, row: Row, seed: int) -> Made:
        """The recording itself, or its prompt with silence or noise of its colour after it."""
        spec = self.plan.spec
        start, end = self.grid.samples(spec.prompt_seconds), self.grid.samples(spec.seconds)
        if row.kind == "reference":
            return self._of_recording(prompt, prompt.wave, self.grid)
        wave = np.zeros(end, dtype=np.float32)
        head, rest = prompt.wave[:start], prompt.wave[start:]
        wave[: len(head)] = head
        if row.kind == "noise":
            colour = rest if rest.any() else prompt.wave  # a recording may end with its prompt
            wave[start:] = noise_like(colour, end - start, self.grid.sample_rate, seed)
        return self._of_recording(prompt, wave, self.grid)

    def _round_trip(self, batch: Batch, prompts: Sequence[LoadedPrompt]) -> list[Made]:
        import torch

        codec = self.opened.codec(str(batch.row.model))
        bits = _bit_rate(batch.row, codec, self.plan.models)
        levels = batch.row.levels  # None keeps all, and latents have none
        grid = Grid.of(codec)
        made = []
        with torch.inference_mode():
            for prompt in prompts:
                wave = torch.from_numpy(prompt.wave)[None].to(self.opened.device)  # [1, S]
                frames = codec.encode(wave)
                frames = frames if levels is None else frames[:, :levels]  # [B, K, T]
                decoded = codec.decode(frames)[0, : len(prompt.wave)]
                clip = self._of_recording(prompt, decoded.float().cpu().numpy(), grid)
                made.append(replace(clip, bit_rate=bits))
        return made

    def _of_recording(self, prompt: LoadedPrompt, wave: Wave, grid: Grid) -> Made:
        # A recording of the prompt alone ends before the prompt's last frame does.
        samples = min(grid.samples(self.plan.spec.prompt_seconds), len(wave))
        seconds = samples / grid.sample_rate
        words = prompt.words if prompt.text_source in ("given", "estimated") else None
        return Made(wave=wave, grid=grid, prompt_seconds=seconds, words=words)

    def _continue(self, batch: Batch, prompts: Sequence[LoadedPrompt]) -> list[Made]:
        import torch

        row = batch.row
        system = self.opened.system(str(row.model), row.precision or "fp32")
        grid, spec, rate = Grid.of(system.codec), self.plan.spec, self.grid.sample_rate
        if grid.sample_rate != rate and not system.brings_codec:
            raise BenchError(
                f"{row.model} has audio at {grid.sample_rate} Hz, the reference rows at "
                f"{rate} Hz: they cannot share a benchmark"
            )
        n_frames = grid.frames(spec.seconds) - grid.frames(spec.prompt_seconds)
        generators = [torch.Generator().manual_seed(trial.seed) for trial in batch.trials]
        about = grid, spec.prompt_seconds, self.opened.device
        given = [
            system_prompt(prompt.at_rate(grid.sample_rate).wave, prompt.words or (), *about)
            for prompt in prompts
        ]
        result = system.generate(given, sampling_of(row), generators, n_frames)
        if not len(result.prompt_frames) == len(result.wave) == len(given):
            n = f"{len(result.wave)} clips, {len(result.prompt_frames)} prompts for {len(given)}"
            raise BenchError(f"{called(system)} gave {n}")
        return [self._continued(result, index, grid) for index in range(len(given))]

    def _continued(self, result: "Generation", index: int, grid: Grid) -> Made:
        """One clip of a batch, at the reference rows' rate; one of another length is at fault."""
        counts, rate = result.prompt_frames, self.grid.sample_rate
        wanted = grid.samples(self.plan.spec.seconds)
        own = result.wave.shape[1] - (max(counts) - counts[index]) * grid.hop_length
        wave = result.wave[index, -wanted:].float().cpu().numpy()
        lengths = f"{own / grid.sample_rate:.2f} s of {wanted / grid.sample_rate:.2f} s"
        return Made(
            wave=resample(wave, grid.sample_rate, rate),
            grid=self.grid,
            prompt_seconds=counts[index] * grid.hop_length / grid.sample_rate,
            words=None if result.words is None else result.words[index],
            fault="" if own == wanted else f"the clip has {lengths}",
        )


def _record(trial: Trial, prompt: LoadedPrompt, **outcome: Any) -> TrialRecord:
    return TrialRecord(
        trial_id=trial.trial_id,
        cell_id=trial.cell_id,
        prompt_id=trial.prompt.id,
        group=trial.prompt.group,
        seed_index=trial.seed_index,
        seed=trial.seed,
        prompt_text_source=prompt.text_source,
        **outcome,
    )


def _bit_rate(row: Row, codec: "Codec", models: Models) -> Estimate:
    """A codec's bits per second, which no clip can tell."""
    bits = codec.bits_per_second
    if row.levels is not None and bits is not None:
        bits *= row.levels / models[str(row.model)][0].architecture["n_codebooks"]
    return bit_rate(bits)
