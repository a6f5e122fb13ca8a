"""Prompts on the frames of a codec: loaded, checked, cut, and handed to a system."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from calm_bench import paths
from calm_bench.asr import Recognizer, load_recognizer
from calm_bench.audio import read_audio
from calm_bench.config import BenchmarkSpec, PromptSpec
from calm_bench.data.alignment import align_text, spread_text
from calm_bench.data.prompts import LoadedPrompt, load_prompt, prompt_samples, transcribe_prompt
from calm_bench.errors import BenchError
from calm_bench.hearing import hear

if TYPE_CHECKING:
    from calm_bench.codecs.base import Codec
    from calm_bench.systems.base import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The frames that prompts and clips are cut to."""

    sample_rate: int
    hop_length: int

    @classmethod
    def of(cls, codec: "Codec") -> Self:
        """The frames of a codec."""
        return cls(sample_rate=codec.sample_rate, hop_length=codec.hop_length)

    def samples(self, seconds: float) -> int:
        """Samples in so many seconds, rounded up to whole frames."""
        return prompt_samples(seconds, self.sample_rate, self.hop_length)

    def frames(self, seconds: float) -> int:
        """Whole frames in so many seconds, rounded up."""
        return self.samples(seconds) // self.hop_length


class PromptShelf:
    """Prompts of a benchmark, loaded when asked for; a few hundred are kept in memory."""

    def __init__(self, spec: BenchmarkSpec, root: Path, sample_rate: int) -> None:
        """Load prompts, whose paths are relative to `root`, at the rate of the run's codecs."""
        self.spec = spec
        self.root = root
        self.sample_rate = sample_rate
        self.load = lru_cache(maxsize=256)(self._load)

    def check(self, prompts: Iterable[PromptSpec]) -> None:
        """Load every prompt once, so that a damaged one is found before anything is generated.

        Raises:
            InputError: If a prompt is missing, changed, damaged, silent or too short.
        """
        for prompt in prompts:
            self.load(prompt)

    def _load(self, prompt: PromptSpec) -> LoadedPrompt:
        loaded = load_prompt(prompt, self.spec, self.root, self.sample_rate)
        if prompt.text and loaded.words is None:
            return self._timed(prompt, loaded)
        if loaded.text_source != "none" or self.spec.asr is None:
            return loaded
        return transcribe_prompt(loaded, self._recognizer, self.spec.prompt_seconds)

    def _timed(self, prompt: PromptSpec, loaded: LoadedPrompt) -> LoadedPrompt:
        """The prompt with its text, which is of the whole recording, timed by what is heard."""
        wave, rate = read_audio(paths.inside(self.root, prompt.audio))
        text, seconds = str(prompt.text), len(wave) / rate
        try:
            heard = hear(wave, rate, self._recognizer) if self.spec.asr else None
        except BenchError:  # no recogniser on this machine
            heard = None
        words = align_text(text, heard.words, seconds, heard.language) if heard else None
        source: Literal["given", "estimated"] = "given" if words else "estimated"
        end = len(loaded.wave) / loaded.sample_rate
        kept = tuple(word for word in words or spread_text(text, seconds) if word.start < end)
        return dataclasses.replace(loaded, words=kept, text_source=source)

    @cached_property
    def _recognizer(self) -> Recognizer:
        return load_recognizer(self.spec.asr)


def system_prompt(prompt: LoadedPrompt, grid: Grid, prompt_seconds: float, device: str) -> "Prompt":
    """What a system is given: whole frames of audio and the words that begin in them."""
    import torch

    from calm_bench.systems.base import Prompt

    samples = grid.samples(prompt_seconds)
    wave = torch.from_numpy(prompt.wave[:samples]).to(device)
    return Prompt(wave=wave, words=prompt.words_before(samples / grid.sample_rate))
