"""The recogniser: policy, flags and limits on audio made here, words on the shipped prompts."""

import importlib.util
import json
import sys
import types
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from calm_bench import asr
from calm_bench.asr import faster_whisper, recognizer
from calm_bench.asr.openai_whisper import OpenAiRecognizer
from calm_bench.asr.words import normalise
from calm_bench.core import paths
from calm_bench.errors import InputError, MissingExtraError, UnknownNameError
from calm_bench.types import TimedWord, Wave

RATE = recognizer.SAMPLE_RATE


def said(text: str, seconds_per_word: float = 0.3) -> list[TimedWord]:
    step = seconds_per_word
    return [
        TimedWord(word=word, start=i * step, end=(i + 1) * step)
        for i, word in enumerate(text.split())
    ]


def tone(seconds: float, level: float = 0.1) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * 220 * t)).astype(np.float32)


class Parrot(recognizer.Recognizer):
    """Hears one word per second of audio."""

    threads = 3
    recipe = MappingProxyType({"engine": "parrot"})

    def hear(self, wave: Wave) -> recognizer.Heard:
        return recognizer.Heard(words=said(" ".join(["polly"] * (len(wave) // RATE)), 1.0))


STORY = "late at night oliver heard a strange sound and he woke his brother to look for it"


@pytest.mark.parametrize(
    ("text", "pace", "doubts", "flags"),
    [
        (STORY, 0.3, {"no_speech": 0.1, "log_prob": -0.9}, ()),
        (STORY, 0.3, {"no_speech": 0.61}, ("no_speech",)),
        (STORY, 0.3, {"log_prob": -1.1}, ("unsure",)),
        (STORY, 0.15, {}, ("fast",)),
        ("no no no", 0.3, {}, ()),
        ("no no no", 2.1, {}, ("long_word",)),
        ("no, No. no no!", 0.3, {}, ("loop",)),
        ("she ran to the to the to the barn", 0.3, {}, ("loop",)),
        ("thank you very much for watching " * 9, 0.3, {}, ("compression", "loop")),
        ("", 0.3, {}, ()),
    ],
)
def test_flags(text: str, pace: float, doubts: dict, flags: tuple[str, ...]) -> None:
    words = said(text, pace)
    found = recognizer.health_flags(words, tone(words[-1].end if words else 1.0), **doubts)
    assert found == flags
    assert set(found) <= set(recognizer.FLAGS)


def test_speech_that_no_word_covers_is_sparse() -> None:
    wave = tone(10.0)
    words = said(STORY)  # 5.1 s
    assert recognizer.health_flags(words, wave) == ("sparse",)
    assert recognizer.health_flags(words, wave[: 7 * RATE]) == ()
    # One word that is stretched over the rest covers two seconds of it.
    stretched = [*words, TimedWord(word="end", start=5.1, end=10.0)]
    assert recognizer.health_flags(stretched, wave) == ("long_word", "sparse")
    wave[5 * RATE :] *= 1e-2  # a floor 40 dB below the speech is a pause
    assert recognizer.health_flags(words, wave) == ()


def test_no_word_is_heard_in_silence() -> None:
    wave = np.concatenate([tone(2.0), np.zeros(5 * RATE, np.float32)])
    times = {"the": (1.6, 1.9), "end": (2.15, 2.4), "thank": (3.5, 3.8), "you": (3.8, 4.2)}

    class Dreamer(Parrot):
        def hear(self, wave: Wave) -> recognizer.Heard:
            return recognizer.Heard(
                words=[TimedWord(word=w, start=a, end=b) for w, (a, b) in times.items()]
            )

    heard = Dreamer().transcribe(wave, RATE)
    # The second word belongs to the sound before it, and the others to none.
    assert [(word.word, word.start) for word in heard.words] == [("the", 1.6), ("end", 1.9)]
    assert heard.text == "the end"
    assert heard.flags == ("in_silence",)


def test_a_word_that_is_timed_after_the_end_belongs_to_the_last_sound() -> None:
    late = [TimedWord(word=w, start=at, end=at + 0.2) for w, at in (("end", 2.15), ("you", 2.9))]
    (word,) = recognizer.placed_in_sound(late, tone(2.0))
    assert (word.word, word.start) == ("end", 1.9)


def test_silence_is_quieter_than_60_db_everywhere() -> None:
    assert recognizer.is_silent(np.zeros(0, np.float32))
    assert recognizer.is_silent(tone(1.0, level=1e-3))
    assert not recognizer.is_silent(tone(1.0, level=2e-3))
    click = np.zeros(RATE, np.float32)
    click[5000:5800] = 0.01
    assert not recognizer.is_silent(click)


def test_silence_is_not_transcribed() -> None:
    transcript = faster_whisper.FasterWhisperRecognizer("/nowhere").transcribe(
        np.zeros(RATE, np.float32), RATE
    )
    assert (transcript.text, transcript.words, transcript.flags) == ("", (), ("silent",))


def test_audio_is_resampled_and_must_be_finite_and_mono() -> None:
    parrot = Parrot()
    assert len(parrot.transcribe(np.repeat(tone(3.0), 3), 3 * RATE).words) == 3
    for bad in (np.full(RATE, np.nan, np.float32), np.zeros((2, RATE), np.float32)):
        with pytest.raises(InputError, match="finite mono"):
            parrot.transcribe(bad, RATE)


def test_all_clips_come_back_in_order() -> None:
    seconds = [3, 1, 4, 1, 5, 9, 2, 6]
    for at_once in (1, 3, 8, 9):
        parrot = Parrot()
        parrot.at_once = at_once
        clips = [(tone(s), RATE) for s in seconds]
        clips.insert(2, (np.zeros(RATE, np.float32), RATE))
        heard = list(parrot.transcribe_all(clips))
        assert [len(transcript.words) for transcript in heard] == [3, 1, 0, *seconds[2:]]
        assert heard[2].flags == ("silent",)


def test_words_are_joined_as_the_text_writes_them() -> None:
    pieces = [
        {"word": " Tom", "start": 0.0, "end": 0.3},
        {"word": "'s", "start": 0.3, "end": 0.4},
        {"word": " cat", "start": 0.4, "end": 0.8},
        {"word": ".", "start": 0.8, "end": 1.6},
        {"word": " ...", "start": 1.6, "end": 1.8},
    ]
    words = recognizer.join_pieces(pieces)
    assert [(w.word, w.start, w.end) for w in words] == [("Tom's", 0.0, 0.4), ("cat.", 0.4, 0.8)]


def test_long_audio_is_cut_where_it_is_quiet() -> None:
    wave = tone(70.0)
    quiet = 25 * RATE
    wave[quiet : quiet + RATE // 2] = 0
    spans = faster_whisper._windows(wave)
    assert [start for start, _ in spans[1:]] == [end for _, end in spans[:-1]]
    assert (spans[0][0], spans[-1][1]) == (0, wave.size)
    assert max(end - start for start, end in spans) <= 30 * RATE
    assert quiet <= spans[0][1] <= quiet + RATE // 2
    assert faster_whisper._windows(wave[: 30 * RATE]) == [(0, 30 * RATE)]


def test_names() -> None:
    assert asr.load_recognizer() is asr.load_recognizer("faster-whisper")
    with pytest.raises(UnknownNameError, match="did you mean faster-whisper"):
        asr.load_recognizer("fast-whisper")


def test_weights_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no model\.bin"):
        _ = asr.load_recognizer(f"faster-whisper:{tmp_path}").recipe
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="offline"):
        _ = faster_whisper.FasterWhisperRecognizer().recipe
    with pytest.raises(MissingExtraError, match="openai-whisper"):
        OpenAiRecognizer()


def test_other_weights_are_another_recipe(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"other")
    recipe = faster_whisper.FasterWhisperRecognizer(str(tmp_path)).recipe
    assert recipe["weights_sha256"] != faster_whisper.PINNED_SHA256
    json.dumps(recipe)


def test_openai_whisper_gets_the_same_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    class Model:
        def transcribe(self, wave: Wave, **options: Any) -> dict[str, Any]:
            asked.update(options)
            words = [{"word": " hello", "start": 0.1, "end": 0.4}]
            return {
                "segments": [
                    {"words": words, "no_speech_prob": 0.7, "avg_logprob": -0.2},
                    {"words": [], "no_speech_prob": 0.2, "avg_logprob": -1.2},
                ]
            }

    fake = types.ModuleType("whisper")
    fake.__spec__ = importlib.util.spec_from_loader("whisper", None)
    fake.load_model = lambda name, device: Model()
    monkeypatch.setitem(sys.modules, "whisper", fake)
    transcript = OpenAiRecognizer("tiny.en").transcribe(tone(1.0), RATE)
    assert transcript.text == "hello"
    assert transcript.flags == ("no_speech", "unsure")
    assert asked["temperature"] == 0.0
    assert asked["language"] == "en"
    assert not asked["condition_on_previous_text"]


@pytest.mark.extra("offline")
def test_the_weights_are_the_pinned_ones() -> None:
    recipe = asr.load_recognizer().recipe
    assert recipe["weights_sha256"] == faster_whisper.PINNED_SHA256
    assert recipe == faster_whisper.FasterWhisperRecognizer(threads=7).recipe


@pytest.mark.extra("offline")
def test_shipped_prompts_are_understood_alike_on_any_number_of_threads() -> None:
    from jiwer import wer
    from soundfile import read

    folder = paths.benchmarks_dir()
    lines = (folder / "prompts" / "speech.jsonl").read_text(encoding="utf-8").splitlines()
    specs = [json.loads(line) for line in lines[:2]]
    clips = [read(folder / spec["audio"], dtype="float32") for spec in specs]
    two, alone = (faster_whisper.FasterWhisperRecognizer(threads=n) for n in (2, 1))
    heard = list(two.transcribe_all(clips))
    assert [alone.transcribe(*clip) for clip in clips] == heard
    for spec, transcript in zip(specs, heard, strict=True):
        meant = " ".join(normalise(" ".join(word for word, _, _ in spec["words"])))
        assert wer(meant, " ".join(normalise(transcript.text))) < 0.2
        assert transcript.flags == ()
        onsets = [word.start for word in transcript.words]
        assert onsets == sorted(onsets)


class Forgetful(faster_whisper.FasterWhisperRecognizer):
    """Stops after three words unless it is asked for timestamps."""

    passes: list[bool]

    def _load(self) -> tuple[Any, None]:
        model = types.SimpleNamespace(
            feature_extractor=lambda wave: np.zeros((80, wave.size // 160 + 1), np.float32),
            encode=lambda features: features,
        )
        return model, None

    def _decode(self, encoded: Any, frames: Any, *, timestamps: Any) -> list[recognizer.Heard]:
        self.passes.append(timestamps)
        words = said("a b c d e f g h i j k l" if timestamps else "a b c", 0.5)
        return [recognizer.Heard(words=words)] * len(encoded)


def test_a_window_with_speech_left_over_is_heard_once_more_with_timestamps() -> None:
    engine = Forgetful("/nowhere")
    engine.passes = []
    heard = engine.transcribe(tone(6.0), RATE)
    assert (len(heard.words), heard.flags, engine.passes) == (12, (), [False, True])
    engine.passes = []
    assert len(engine.transcribe(tone(3.0), RATE).words) == 3
    assert engine.passes == [False]
    engine.passes = []
    heard = engine.transcribe_all((tone(s), RATE) for s in (3.0, 6.0, 40.0))
    # Windows are heard together, and again only those with speech left over.
    assert [len(transcript.words) for transcript in heard] == [3, 12, 24]
    assert engine.passes == [False, True, True, True]


class TestLanguage:
    def folder(self, path: Path, tokens: int) -> Path:
        (path / "model.bin").write_bytes(b"weights")
        (path / "vocabulary.txt").write_text("token\n" * tokens)
        return path

    def test_a_name_says_it(self, tmp_path: Path) -> None:
        spec = asr.in_language(f"faster-whisper:{tmp_path}", "de")
        assert spec == f"faster-whisper:{tmp_path}@de"
        assert asr.in_language(spec, "en") == f"faster-whisper:{tmp_path}"
        self.folder(tmp_path, 51_865)
        german, english = (asr.load_recognizer(s) for s in (spec, asr.in_language(spec, "en")))
        assert german.recipe["language"] == german.language == "de"
        assert english.recipe["language"] == "en"
        assert Parrot().transcribe(tone(1.0), RATE).language == "en"
        with pytest.raises(UnknownNameError, match="language"):
            asr.in_language(None, "deu")

    def test_english_weights_refuse_another(self, tmp_path: Path) -> None:
        self.folder(tmp_path, 51_864)
        for name in (f"faster-whisper:{tmp_path}@de", "openai-whisper:tiny.en@de"):
            with pytest.raises(
                (InputError, MissingExtraError), match=r"English alone|openai-whisper"
            ):
                _ = asr.load_recognizer(name).recipe
