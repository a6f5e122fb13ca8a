import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from clips import lay_corpus

from calm_bench.config import BenchmarkSpec
from calm_bench.core import paths
from calm_bench.core.audio import audio_hash, read_audio
from calm_bench.data.cuts import Cuts, write_prompts
from calm_bench.data.prompts import LoadedPrompt, load_prompt, read_prompt_specs, transcribe_prompt
from calm_bench.errors import InputError
from calm_bench.seeds import file_hash
from calm_bench.systems.grid import Grid
from calm_bench.types import TimedWord, Transcript

RATE = 8000
SPEC = BenchmarkSpec(
    name="speech",
    version=1,
    description="",
    systems=(),
    prompt_seconds=0.5,
    seconds=2.0,
    prompts="prompts/speech.jsonl",
)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    """A benchmarks folder whose three prompts were cut from a corpus of four test recordings."""
    recordings = []
    for index, seconds in enumerate([3.0, 1.0, 2.5, 2.0, 3.0]):
        given = {"text": "x", "words": (("one", 0.0, 0.4), ("two", 1.9, 2.4), ("three", 2.4, 2.5))}
        given["text_source"] = "transcribed" if index == 3 else "given"
        split = "train" if index == 4 else "test"
        recordings.append((f"r{index}", split, noise(seconds, index), given))
    corpus = lay_corpus(tmp_path / "corpus", RATE, recordings)
    root = tmp_path / "benchmarks"
    cuts = Cuts(n=3, seconds=2.0, offset=0.0, sample_rate=RATE)
    write_prompts(corpus, root / "prompts", "speech", cuts)
    return root


def load(
    root: Path, sample_rate: int | None = None, spec: BenchmarkSpec = SPEC
) -> list[LoadedPrompt]:
    specs = read_prompt_specs(paths.inside(root, spec.prompts))
    return [load_prompt(prompt, spec, root, sample_rate) for prompt in specs]


def edit(root: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    path = root / SPEC.prompts
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def overwrite(root: Path, wave: np.ndarray, *, subtype: str = "PCM_16") -> None:
    """Put other audio under the first prompt and tell its hash."""
    path = root / "prompts" / "speech" / "r0.wav"
    soundfile.write(path, wave, RATE, subtype=subtype)
    new = {"audio": "prompts/speech/r0.wav", "sha256": file_hash(path)}
    edit(root, lambda lines: lines[0].update(new))


def test_prompts_are_the_heads_of_the_test_recordings_long_enough(benchmarks: Path) -> None:
    prompts = load(benchmarks)
    assert [prompt.id for prompt in prompts] == ["r0", "r2", "r3"]
    source, _ = read_audio(benchmarks.parent / "corpus" / "r2.flac")
    np.testing.assert_array_equal(prompts[1].wave, source[: 2 * RATE])
    assert prompts[1].words == (
        TimedWord(word="one", start=0.0, end=0.4),
        TimedWord(word="two", start=1.9, end=2.0),
    )
    assert prompts[1].text_source == "given"


def test_a_transcribed_text_is_not_passed_on_as_ground_truth(benchmarks: Path) -> None:
    prompt = load(benchmarks)[2]
    assert prompt.words is None
    assert prompt.text_source == "none"


def test_prompts_are_resampled_on_demand(benchmarks: Path) -> None:
    prompt = load(benchmarks, 16000)[0]
    assert prompt.sample_rate == 16000
    assert prompt.wave.shape == (32000,)


def test_a_list_ends_its_lines_at_the_newline_alone(benchmarks: Path) -> None:
    path = benchmarks / SPEC.prompts
    word = "a\u2028b\x85c"
    edit(benchmarks, lambda lines: lines[0].update({"words": [[word, 0.0, 0.4]]}))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    text = "\r\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_bytes(f"\ufeff{text}\n\n".encode())
    assert [prompt.id for prompt in load(benchmarks)] == ["r0", "r2", "r3"]
    assert load(benchmarks)[0].words == (TimedWord(word=word, start=0.0, end=0.4),)


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros(0), "no audio"),
        (np.full(2 * RATE, np.nan), "NaN"),
        (np.zeros(2 * RATE), "silent"),
        (noise(0.4), r"r0\.wav lasts 0\.40 s, too short for the prompt of 0\.5 s"),
    ],
)
def test_unusable_audio_is_refused(benchmarks: Path, wave: np.ndarray, message: str) -> None:
    overwrite(benchmarks, wave, subtype="FLOAT")
    with pytest.raises(InputError, match=message):
        load(benchmarks)


def test_a_recording_that_ends_before_the_clip_is_kept_as_it_is(benchmarks: Path) -> None:
    overwrite(benchmarks, noise(0.6))
    assert load(benchmarks)[0].wave.size == round(0.6 * RATE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[0].update(sha265="x"), "did you mean sha256"),
        (lambda lines: lines[1].update(id="r0"), r"speech\.jsonl:2: the id 'r0' is taken"),
        (lambda lines: lines[0].update(audio="../../secret.flac"), "outside"),
        (lambda lines: lines[0].update(words=[["a", 2.0, 1.0]]), "timed from 2.0 to 1.0"),
        (lambda lines: lines.clear(), "no prompts"),
        (lambda lines: lines.insert(0, [1]), r"speech\.jsonl:1: not an object"),
    ],
)
def test_a_list_that_is_wrong_is_refused(
    benchmarks: Path, change: Callable[[list[dict[str, Any]]], None], message: str
) -> None:
    edit(benchmarks, change)
    with pytest.raises(InputError, match=message):
        load(benchmarks)


@pytest.mark.parametrize(
    ("seconds", "rate", "hop", "frames"),
    [(3.0, 16000, 1280, 38), (3.0, 24000, 1920, 38), (0.08, 16000, 1280, 1), (0.1, 10, 1, 1)],
)
def test_a_prompt_is_rounded_up_to_whole_frames(
    seconds: float, rate: int, hop: int, frames: int
) -> None:
    assert Grid(sample_rate=rate, hop_length=hop).samples(seconds) == frames * hop
    assert frames == math.ceil(round(seconds * rate / hop, 9))


def test_only_the_prompt_of_unknown_text_is_transcribed(benchmarks: Path) -> None:
    heard: list[int] = []
    word = TimedWord(word="hello", start=0.1, end=0.3)

    def transcribe(wave: np.ndarray, sample_rate: int) -> Transcript:
        heard.append(wave.size)
        return Transcript(text="hello", words=(word,))

    recognizer: Any = SimpleNamespace(transcribe=transcribe)
    *_, unknown = load(benchmarks)
    prompt = transcribe_prompt(unknown, recognizer, 0.5)
    assert heard == [RATE // 2]
    assert prompt.words == (word,)
    assert prompt.text_source == "transcribed"


def test_the_shipped_prompts_are_whole() -> None:
    spec = SPEC.model_copy(update={"prompt_seconds": 3.0, "seconds": 12.0})
    prompts = load(paths.benchmarks_dir(), spec=spec)
    assert len(prompts) == 128
    for prompt in prompts:
        assert prompt.sample_rate == 16000
        assert prompt.wave.size == 192000
        assert prompt.words is not None
        assert 5 <= sum(word.start < 3.04 for word in prompt.words) < len(prompt.words)


def test_the_shipped_music_prompts_are_whole_and_begin_with_music() -> None:
    update = {"prompt_seconds": 3.0, "seconds": 12.0, "prompts": "prompts/music.jsonl"}
    prompts = load(paths.benchmarks_dir(), spec=SPEC.model_copy(update=update))
    assert len(prompts) == 64
    assert len({audio_hash(prompt.wave, prompt.sample_rate) for prompt in prompts}) == 64
    for prompt in prompts:
        assert prompt.sample_rate == 16000
        assert prompt.wave.size == 192000
        assert prompt.words is None
        assert np.abs(prompt.wave[:8000]).max() > 0.01
    folder = paths.benchmarks_dir() / "prompts" / "music"
    assert sum(path.stat().st_size for path in folder.glob("*.flac")) <= 16_000_000
