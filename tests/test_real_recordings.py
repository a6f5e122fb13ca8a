"""Runs on recordings of the user's own: short ones, narrow ones, and ones with a text."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import yaml
from commands import call

from calm_bench.core import paths
from calm_bench.core.audio import read_audio, resample, write_flac
from calm_bench.embeddings.mel import MelEmbedding
from calm_bench.metrics.fad import FadMetric
from calm_bench.score.clips import Clips
from calm_bench.store.records import CodecCheck, ScoreRecord, TrialRecord
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore
from calm_bench.types import Clip, TimedWord, Transcript, Wave

RATE = 16_000
ABOUT = ("prompt_id", "seed_index", "sample_rate", "prompt_seconds", "group")


def done(*args: str | Path) -> str:
    """All that a command said, on one line."""
    return call(*args).text


def benchmark(folder: Path, **changes: object) -> Path:
    """`smoke` with changes, beside its prompts."""
    spec = yaml.safe_load((paths.benchmarks_dir() / "smoke.yaml").read_text())
    shutil.copytree(paths.benchmarks_dir() / "prompts/smoke", folder / "prompts/smoke")
    shutil.copy(paths.benchmarks_dir() / "prompts/smoke.jsonl", folder / "prompts")
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({**spec, "temperatures": [1.0], "latency": None, **changes}))
    return path


def record(path: Path, seconds: float, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE))
    write_flac(path, noise.astype(np.float32), RATE)
    return path


def value(results: Results, cell_id: str, metric: str) -> tuple[float | None, int]:
    row = next(r for r in results.rows if (r.cell_id, r.metric) == (cell_id, metric))
    return row.value, row.n


# -- recordings that end before the clip does ----------------------------------------------------


def test_one_short_recording_leaves_the_rows_of_all(tmp_path: Path) -> None:
    long, short, bare = (
        record(tmp_path / f"{name}.flac", seconds, index)
        for index, (name, seconds) in enumerate((("long", 1.0), ("short", 0.6), ("bare", 0.24)))
    )
    out = tmp_path / "run"
    said = done("run", "smoke", "--no-latency", "--out", out, "--prompt-audio", long, short, bare)
    assert f"2 of 3 recordings end before the clips' 0.96 s, {bare} first" in said
    store = RunStore(out)
    seconds = {}
    for clip in out.glob("clips/*/*.flac"):
        wave, rate = read_audio(clip)
        seconds[clip.parent.name, clip.name.partition("-")[0]] = len(wave) / rate
    for row in ("reference", "vae_round_trip", "rvq_round_trip"):
        found = [seconds[row, name] for name in ("long", "short", "bare")]
        assert found == pytest.approx([0.96, 0.6, 0.24])
    assert seconds["calm-debug-t1", "bare"] == pytest.approx(0.96)
    results = store.read_results()
    assert results.trials["reference"].ok == results.trials["vae_round_trip"].ok == 3
    # What ends with its prompt has no continuation to be compared: left out, and counted so.
    distance, n = value(results, "vae_round_trip", "mel_distance")
    assert (distance is not None, n) == (True, 2)
    assert any("2 of 3 recordings end before" in note for note in results.notes)


def test_fad_compares_each_clip_up_to_where_its_recording_ends(tmp_path: Path) -> None:
    spec = benchmark(tmp_path, metrics=["fad"], embedding="mel", table=["fad"], seconds=6.0)
    recordings = [
        record(tmp_path / f"r{index:02}.flac", 3.2 + 0.15 * index, index) for index in range(17)
    ]
    record(recordings[0], 0.5)  # too short for the embedding after its prompt
    out = tmp_path / "run"
    done("run", spec, "--out", out, "--prompt-audio", *recordings)
    store = RunStore(out)
    results = store.read_results()
    clips = Clips.of_run(results.cells, store)
    reference, ours = (clips.of(name) for name in ("reference", "calm-debug-t1"))
    ends = {clip.prompt_id: clip.seconds for clip in reference}
    cut = [
        Clip(
            clip_id=f"cut {i}",
            wave=c.wave[: round(ends[c.prompt_id] * c.sample_rate)],
            **{k: getattr(c, k) for k in ABOUT},
        )
        for i, c in enumerate(ours)
    ]
    expected = FadMetric(MelEmbedding()).distance(cut, reference)
    assert value(results, "calm-debug-t1", "fad") == (pytest.approx(expected.value), 16)
    whole = FadMetric(MelEmbedding()).distance(ours, reference)
    assert abs((whole.value or 0) - (expected.value or 0)) > 0.01
    recipe = next(r for r in results.recipes.values() if r["metric"] == "fad")
    assert recipe["clips"] == "6 s, to their recordings' ends"


# -- what the codecs make of a prompt ------------------------------------------------------------


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A prompt like those the codecs know, the same in noise, and with nothing above 4 kHz."""
    source, rate = read_audio(paths.benchmarks_dir() / "prompts/speech/test-00000.flac")
    folder = tmp_path_factory.mktemp("voices")
    write_flac(folder / "wide.flac", source, rate)
    hiss = np.random.default_rng(0).normal(0, 0.1, source.shape).astype(np.float32)
    write_flac(folder / "noisy.flac", np.clip(source + hiss, -1, 1), rate)
    write_flac(folder / "narrow.flac", resample(source, rate, 8000), 8000)
    return folder / "wide.flac", folder / "noisy.flac", folder / "narrow.flac"


def test_a_dry_run_says_which_codec_cannot_carry_a_prompt(
    voices: tuple[Path, Path, Path],
) -> None:
    wide, noisy, narrow = voices
    said = done("run", "speech", "--dry-run", "--prompt-audio", wide, noisy)
    for codec in ("vae", "rvq"):
        assert f"note: {codec}-speech-tiny cannot carry 1 of 2 prompts (noisy-" in said
    kept = r"STOI 0\.[0-6]\d, bandwidth 8\.0 kHz \(before 8\.0 kHz\)"
    assert re.search(f"{kept}: rows that hear through it do", said)
    said = done("run", "speech", "--dry-run", "--prompt-audio", wide, narrow)
    assert "cannot carry" not in said
    said = done("run", "speech", "--dry-run", "--prompt-audio", wide)
    assert re.search(r"vae-speech-tiny returns the prompt at −\d\.\d dB, STOI 0\.[89]", said)
    assert "cannot carry" not in done("run", "speech", "--dry-run", "--prompts", "2")


def test_a_codec_of_ones_own_is_asked_about_the_shipped_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, like in (("my-vae", "vae-debug"), ("mine", "calm-debug")):
        text = (paths.models_dirs()[-1] / like / "config.yaml").read_text()
        path = tmp_path / "models" / name / "config.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text.replace("codec: vae-debug", "codec: my-vae"))
    said = done("run", "smoke", "--dry-run", "--systems", "mine", "calm")
    assert "my-vae returns the 2 prompts at" in said
    assert "vae-debug returns" not in said


def test_music_is_not_judged_by_the_intelligibility_of_speech(
    voices: tuple[Path, Path, Path],
) -> None:
    tune = paths.benchmarks_dir() / "prompts/music/test-00002.flac"
    said = done("run", "music", "--dry-run", "--systems", "calm", "--prompt-audio", tune)
    assert "vae-music-tiny returns the prompt at" in said
    assert "STOI" not in said
    result = call("run", "music", "--dry-run", "--json", "--prompt-audio", voices[2])
    checks = result.json["codec_checks"]
    assert {check["codec"] for check in checks} >= {"vae-music-tiny", "rvq-music-tiny"}
    for check in checks:
        assert check["returned_level_db"] < check["level_db"] - 10
        assert check["stoi"] is None


def test_the_table_and_the_page_say_it_and_nothing_is_checked_twice(
    tmp_path: Path, voices: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = benchmark(
        tmp_path,
        systems=[{"model": "calm-speech-tiny", "label": "CALM"}],
        references=["vae_round_trip"],
        codecs={"vae": "vae-speech-tiny"},
        metrics=["loudness", "stoi"],
        prompt_seconds=1.0,
        seconds=1.2,
    )
    command = ("run", spec, "--out", tmp_path / "run", "--prompt-audio", voices[1])
    note = "vae-speech-tiny cannot carry the prompt (noisy-"
    assert done(*command).count(note) >= 2  # in the plan and under the table
    (kept,) = (c for c in RunStore(tmp_path / "run").read(CodecCheck) if "vae-speech" in c.codec)
    assert kept.stoi is not None
    assert kept.stoi < 0.75
    page = (tmp_path / "run/page/index.html").read_text()
    assert "vae-speech-tiny cannot carry it: −" in page
    assert note in page
    monkeypatch.setattr("calm_bench.generate.codec_check._compared", None)
    assert note in done(*command)
    assert note in done(*command, "--dry-run")

    roots = list[str]()
    monkeypatch.setattr(
        "calm_bench.generate.codec_check.computed_by", lambda *r: roots.extend(r) or "other code"
    )
    call(*command, "--dry-run", code=70)  # so it would be looked at again
    assert {"calm_bench.codecs.vae", "calm_bench.generate.codec_check"} <= {*roots}


# -- folders, and lists with texts ---------------------------------------------------------------


def write_list(path: Path, *lines: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


class Hears:
    """A recogniser that hears the same words in whatever it is given."""

    recipe: ClassVar[dict[str, str]] = {"model": "fake"}

    def __init__(self, *words: tuple[str, float]) -> None:
        self.words = tuple(TimedWord(word=w, start=at, end=at + 0.04) for w, at in words)

    def transcribe(self, wave: Wave, sample_rate: int) -> Transcript:
        return Transcript(text=" ".join(w.word for w in self.words), words=self.words)

    def transcribe_all(self, clips: Iterable[tuple[Wave, int]]) -> Iterator[Transcript]:
        return (self.transcribe(*clip) for clip in clips)


@pytest.fixture
def hears_four(monkeypatch: pytest.MonkeyPatch) -> None:
    ear = Hears(("red", 0.0), ("green", 0.25), ("blue", 0.3), ("grey", 0.4))
    for module in ("data.prompts", "score.scorer"):
        monkeypatch.setattr(f"calm_bench.{module}.load_recognizer", lambda _: ear)


def sources(folder: Path, cell_id: str) -> dict[str, tuple[str, list[str]]]:
    """By the beginning of a prompt's id, where its text is from, and its words."""
    return {
        record.prompt_id.partition("-")[0]: (
            record.prompt_text_source,
            [word for word, _, _ in record.words or ()],
        )
        for record in RunStore(folder).read(TrialRecord)
        if record.cell_id == cell_id
    }


@pytest.mark.usefixtures("hears_four")
def test_a_list_brings_the_texts_that_references_are_scored_against(tmp_path: Path) -> None:
    for index, name in enumerate(("a", "b", "c", "d")):
        record(tmp_path / f"{name}.flac", 1.0, index)
    listed = write_list(
        tmp_path / "mine.jsonl",
        {"audio": "a.flac", "text": "Red, green, blue, pink."},
        {"audio": "b.flac", "words": [["red", 0.0, 0.2], ["white", 0.3, 0.4], ["late", 0.97, 1.0]]},
        {"audio": "c.flac", "text": "nothing of this was heard"},
        {"audio": "d.flac"},
    )
    spec = benchmark(tmp_path, metrics=["wer"], table=["wer"], asr="faster-whisper")
    said = done("run", spec, "--out", tmp_path / "run", "--prompt-audio", listed)
    note = "texts without times: those of 2 of 4 prompts; what faster-whisper hears times them"
    assert said.count(note) == 2  # in the plan and under the table
    assert "1 prompt whose given text was not heard: c-" in said
    assert "the text of 1 prompt was recognised, not given" in said
    assert sources(tmp_path / "run", "reference") == {
        "a": ("given", ["Red,", "green,", "blue,", "pink."]),
        "b": ("given", ["red", "white"]),
        "c": ("estimated", ["nothing", "of", "this", "was", "heard"]),
        "d": ("transcribed", []),
    }
    found = RunStore(tmp_path / "run").read(ScoreRecord)
    errors = {
        record.trial_id: (record.values.get("wer_errors"), record.values.get("wer_words"))
        for record in found
        if record.cell_id == "reference"
    }
    by_prompt = {
        record.prompt_id.partition("-")[0]: errors[record.trial_id]
        for record in RunStore(tmp_path / "run").read(TrialRecord)
        if record.cell_id == "reference"
    }
    # Scored: what starts from the prompt's end, 0.24 s, to 0.5 s before the clip's, 0.46 s.
    assert by_prompt["a"] == (1, 3)
    assert by_prompt["b"] == (3, 1)  # one replaced, two more heard
    assert by_prompt["d"] == (None, None)


def test_without_a_recogniser_a_text_is_laid_over_the_recording(tmp_path: Path) -> None:
    record(tmp_path / "a.flac", 2.0)
    listed = write_list(tmp_path / "mine.jsonl", {"audio": "a.flac", "text": "aa bb cc dd"})
    said = done("run", "smoke", "--no-latency", "--out", tmp_path / "run", "--prompt-audio", listed)
    assert "those of 1 of 1 prompt; their length times them" in said
    (known,) = {
        record.words
        for record in RunStore(tmp_path / "run").read(TrialRecord)
        if record.cell_id == "reference"
    }
    assert known == (("aa", 0.0, 0.5), ("bb", 0.5, 1.0))  # the clip ends at 0.96 s


def test_another_text_is_another_run(tmp_path: Path) -> None:
    record(tmp_path / "a.flac", 1.0)
    folders = set()
    for text in ("one", "two", None):
        listed = write_list(tmp_path / "mine.jsonl", {"audio": "a.flac", "text": text})
        said = done("run", "smoke", "--dry-run", "--prompt-audio", listed)
        folders.add(said.rpartition("would write ")[2])
    assert len(folders) == 3


def test_a_folder_is_all_that_is_in_it_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "voices"
    (folder / "more").mkdir(parents=True)
    for index, name in enumerate(("b.flac", "a.flac", "more/c.flac", ".hidden.flac")):
        record(folder / name, 1.0, index)
    plan = call("run", "smoke", "--dry-run", "--json", "--prompt-audio", folder).json
    assert [name.partition("-")[0] for name in plan["prompts"]] == ["a", "b", "c"]
    assert any(".hidden.flac" in note for note in plan["notes"])
    few = call("run", "smoke", "--dry-run", "--json", "--prompts", "2", "--prompt-audio", folder)
    chosen = few.json["prompts"]
    assert len(chosen) == 2
    assert set(chosen) < set(plan["prompts"])


@pytest.mark.parametrize("listed", [False, True])
def test_of_a_folder_or_list_what_cannot_be_used_costs_itself_alone(
    tmp_path: Path, listed: bool
) -> None:
    folder = tmp_path / "voices"
    folder.mkdir()
    for index, (name, seconds) in enumerate((("good", 1.0), ("long", 1.0), ("short", 0.1))):
        record(folder / f"{name}.flac", seconds, index)
    shutil.copy(folder / "good.flac", folder / "same.flac")
    (folder / "broken.wav").write_bytes(b"RIFF and then nothing")
    source = folder
    if listed:
        names = (path.name for path in sorted(folder.iterdir()))
        source = write_list(folder / "mine.jsonl", *({"audio": name} for name in names))
    line = ("run", "smoke", "--no-latency", "--prompt-audio", source, "--out", tmp_path / "run")
    found = call(*line, "--dry-run", "--json", code=4).json
    assert [name.partition("-")[0] for name in found["prompts"]] == ["good", "long"]
    assert len(found["unusable"]) == 2
    said = call(*line, code=4).text
    assert "2 recordings could not be used; the notes of the table say why" in said
    for name in ("broken.wav is not a readable sound file", "short.flac lasts 0.10 s, too short"):
        assert name in call(*line, "--dry-run", code=4).text
        assert said.count(name) == 2  # in the plan and under the table
        assert name in (tmp_path / "run/page/index.html").read_text()
    assert f"same.flac (of {folder / 'good.flac'})" in said
    assert "× 2 prompts" in said
    assert RunStore(tmp_path / "run").read_results().trials["reference"].ok == 2
    typed = call(*line[:5], folder / "broken.wav", "--out", tmp_path / "other", code=2)
    assert "broken.wav is not a readable" in typed.text


def test_words_that_are_timed_in_part_are_said(tmp_path: Path) -> None:
    spec = benchmark(tmp_path, seconds=6.0)
    words = [[f"w{at}", at / 2, at / 2 + 0.3] for at in range(14)]
    lines = []
    for index, (name, given) in enumerate((("whole", words), ("part", words[:2]))):
        record(tmp_path / f"{name}.flac", 7.0, index)
        lines.append({"audio": f"{name}.flac", "words": given})
    listed = write_list(tmp_path / "mine.jsonl", *lines)
    note = "more than 2 s of sound have no word in the timed words of"
    said = done("run", spec, "--no-latency", "--dry-run", "--prompt-audio", listed)
    assert f"{note} {tmp_path / 'part.flac'}: what is said there" in said
    for _ in range(2):
        assert f"{note} part: what" in done("data", "folder", listed, "--out", tmp_path / "corpus")


def test_a_folder_without_a_usable_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "voices").mkdir()
    (tmp_path / "voices/broken.wav").write_bytes(b"RIFF and then nothing")
    for more in ((), ("--dry-run",)):
        result = call("run", "smoke", "--prompt-audio", tmp_path / "voices", *more, code=2)
        assert "1 of 1 recording cannot be used" in result.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            {"audio": "lost.flac", "text": "x"},
            r"mine.jsonl lists, cannot be used .*lost\.flac does not exist",
        ),
        ({"audio": "a.flac", "offset": 0.1}, "stretches of longer files, which `calm-bench data"),
        ({"audio": "a.flac", "txt": "x"}, r"mine\.jsonl:1: txt: unknown field; did you mean text"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, line: dict[str, object], message: str
) -> None:
    record(tmp_path / "a.flac", 1.0)
    listed = write_list(tmp_path / "mine.jsonl", line)
    result = call("run", "smoke", "--dry-run", "--prompt-audio", listed, code=2)
    assert re.search(message, result.text)
