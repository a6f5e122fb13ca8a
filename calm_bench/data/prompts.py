"""Prompts of a benchmark: cut from a corpus once, and checked each time they are read back."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from calm_bench.asr import load_recognizer
from calm_bench.asr.recognizer import Recognizer, hear
from calm_bench.config import BenchmarkSpec, PromptSpec, parse
from calm_bench.core import paths
from calm_bench.core.audio import read_audio, resample, same_file
from calm_bench.core.files import json_lines
from calm_bench.data.alignment import align_text, check_times, spread
from calm_bench.errors import BenchError, InputError
from calm_bench.types import TimedWord, Wave, timed


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPrompt:
    """A prompt and what its recording has of the real continuation after it.

    Attributes:
        wave: The recording [S], cut to the length of the benchmark's clips; it may end earlier.
        words: Timed words of the whole clip. Where `text_source` is transcribed, of the prompt
            alone: the reference rows of such a prompt have no known text to be scored against.
            Where it is estimated, the text is given and its times are not.
    """

    id: str
    wave: Wave
    sample_rate: int
    sha256: str
    words: tuple[TimedWord, ...] | None
    text_source: Literal["given", "estimated", "transcribed", "none"]

    def at_rate(self, sample_rate: int) -> "LoadedPrompt":
        """The same prompt at another rate."""
        wave = resample(self.wave, self.sample_rate, sample_rate)
        return dataclasses.replace(self, wave=wave, sample_rate=sample_rate)


def read_prompt_specs(path: Path) -> list[PromptSpec]:
    """The prompts that a JSON-lines file lists.

    Raises:
        InputError: If it is missing or empty, a line is no prompt, or two have the same id.
    """
    specs: dict[str, PromptSpec] = {}
    for where, record in json_lines(path):
        spec = parse(PromptSpec, record, where)
        if spec.id in specs:
            raise InputError(f"{where}: the id {spec.id!r} is taken by an earlier line")
        specs[spec.id] = spec
    if not specs:
        raise InputError(f"{path} lists no prompts")
    return list(specs.values())


def present_prompts(specs: Sequence[PromptSpec], root: Path) -> list[PromptSpec]:
    """The head of a list whose audio a wheel carries: 8 of every list. Elsewhere the whole list.

    Where more than a tail is missing, files were lost: then all are returned, and reading them
    says which.
    """
    if not paths.is_packaged(root):
        return list(specs)
    there = [paths.inside(root, spec.audio).is_file() for spec in specs]
    whole = there.index(False) if False in there else len(there)
    return list(specs) if any(there[whole:]) or whole == 0 else list(specs[:whole])


def load_prompt(
    prompt: PromptSpec, spec: BenchmarkSpec, root: Path, sample_rate: int | None = None
) -> LoadedPrompt:
    """A prompt of a benchmark, checked against its sha256; paths are relative to `root`.

    Raises:
        InputError: If its file is missing, changed, damaged, not finite, silent or too short.
    """
    path = paths.inside(root, prompt.audio)
    if not path.is_file():
        raise InputError(f"prompt {prompt.id}: {path} does not exist")
    with same_file(path, prompt.sha256, f"prompt {prompt.id} was changed or is damaged"):
        wave, rate = read_audio(path, sample_rate, seconds=spec.seconds)
    if len(wave) < round(spec.prompt_seconds * rate):
        raise InputError(
            f"prompt {prompt.id}: {path} lasts {len(wave) / rate:.2f} s, "
            f"too short for the prompt of {spec.prompt_seconds:g} s"
        )
    if not wave[: round(spec.prompt_seconds * rate)].any():
        raise InputError(f"prompt {prompt.id}: {path} is silent")
    check_times(prompt.words or (), f"prompt {prompt.id}")
    return LoadedPrompt(
        id=prompt.id,
        wave=wave,
        sample_rate=rate,
        sha256=prompt.sha256,
        words=None if prompt.words is None else timed(prompt.words),
        text_source="none" if prompt.words is None else "given",
    )


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
        path = paths.inside(self.root, prompt.audio)
        with same_file(path, prompt.sha256, f"prompt {prompt.id} was changed or is damaged"):
            wave, rate = read_audio(path)
        text, seconds = str(prompt.text), len(wave) / rate
        try:
            heard = hear(wave, rate, self._recognizer) if self.spec.asr else None
        except BenchError:  # no recogniser on this machine
            heard = None
        words = align_text(text, heard.words, seconds, heard.language) if heard else None
        source: Literal["given", "estimated"] = "given" if words else "estimated"
        end = len(loaded.wave) / loaded.sample_rate
        kept = tuple(
            word for word in words or spread(text.split(), 0.0, seconds) if word.start < end
        )
        return dataclasses.replace(loaded, words=kept, text_source=source)

    @cached_property
    def _recognizer(self) -> Recognizer:
        return load_recognizer(self.spec.asr)


PromptsAt = Callable[[int], PromptShelf]
"""A benchmark's prompts at a sample rate."""


def transcribe_prompt(
    prompt: LoadedPrompt, recognizer: Recognizer, prompt_seconds: float
) -> LoadedPrompt:
    """The same prompt with recognised words; only the prompt is heard.

    The continuation is left out, so that no reference is scored against its own transcript.
    """
    head = prompt.wave[: round(prompt_seconds * prompt.sample_rate)]
    heard = recognizer.transcribe(head, prompt.sample_rate)
    return dataclasses.replace(prompt, words=heard.words, text_source="transcribed")
