import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from commands import call

from calm_bench.core import sounds
from calm_bench.core.files import locked
from calm_bench.data import folder as module
from calm_bench.data.corpus import Item, read_card, read_manifest, write_corpus
from calm_bench.data.folder import (
    FolderOptions,
    data_command,
    folder_command,
    make_folder,
)
from calm_bench.data.shards import prepare
from calm_bench.errors import BenchError, InputError, UnknownNameError
from calm_bench.seeds import file_hash
from calm_bench.types import TimedWord, Transcript


def sound(path: Path, seconds: float = 1.2, *, seed: int | None = None, **form: Any) -> Path:
    """A file of noise that is its own, unless the seed says otherwise."""
    rate, channels = form.pop("rate", 8000), form.pop("channels", 1)
    rng = np.random.default_rng(sum(map(ord, path.stem)) if seed is None else seed)
    wave = 0.1 * rng.standard_normal((round(seconds * rate), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **form)
    return path


def by_id(out: Path) -> dict[str, Item]:
    return {item.id: item for item in read_manifest(out)}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "corpus"


def test_any_rate_channel_count_and_format_is_taken(source: Path, out: Path) -> None:
    sound(source / "train" / "a.wav", rate=44100, channels=2)
    sound(source / "train" / "deep" / "b.flac", rate=8000)
    sound(source / "train" / "c.ogg", rate=22050, channels=3)
    sound(source / ".hidden" / "d.wav")
    (source / "notes.txt").write_text("no sound")
    make_folder(source, out)
    items = by_id(out)
    assert sorted(items) == ["train-a", "train-c", "train-deep-b"]
    forms = [(items[name].sample_rate, items[name].channels) for name in sorted(items)]
    assert forms == [(44100, 2), (22050, 3), (8000, 1)]
    shards = prepare(out, 16000)
    assert shards.audio.lengths.tolist() == [pytest.approx(1.2 * 16000, abs=2)] * 3


def test_what_cannot_be_used_is_listed_with_its_reason(source: Path, out: Path) -> None:
    samples, rate = soundfile.read(sound(source / "good.wav"), dtype="int16")
    soundfile.write(source / "good_copy.flac", samples, rate)
    sound(source / "brief.wav", 0.3)
    (source / "broken.wav").write_bytes(b"RIFF....WAVEnot really")
    (source / "empty.wav").touch()
    (source / "phone.m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    soundfile.write(source / "zero.wav", np.zeros(16000), 8000)
    soundfile.write(source / "faint.wav", np.full(16000, 1e-4), 8000, subtype="FLOAT")
    soundfile.write(source / "nan.wav", np.full(16000, np.nan), 8000, subtype="FLOAT")
    whole = sound(source / "torn.flac", 3.0).read_bytes()
    (source / "torn.flac").write_bytes(whole[: len(whole) // 2])
    card = make_folder(source, out)
    reasons = {Path(skipped.audio).name: skipped.reason for skipped in card.skipped}
    for name, reason in {
        "good_copy.flac": "duplicate: the same audio as",
        "brief.wav": "too short: 0.30 s, less than 1 s",
        "broken.wav": "not a readable sound file",
        "empty.wav": "empty (0 bytes)",
        "phone.m4a": "; convert it to FLAC or WAV, as ffmpeg does",
        "zero.wav": "silent: every sample is zero",
        "faint.wav": "silent: never louder than -80 dBFS",
        "nan.wav": "NaN",
        "torn.flac": "decoder lost sync",
    }.items():
        assert reason in reasons.pop(name)
    assert not reasons
    assert card.counts["skipped"] == 9
    assert list(by_id(out)) == ["good"]
    assert read_card(out) == card


def test_a_manifest_gives_text_words_and_splits(source: Path, out: Path) -> None:
    sound(source / "a.wav")
    sound(source / "b.wav")
    lines = [
        {"audio": "a.wav", "words": [["hi", 0.1, 0.2], ["you", 0.3, 0.5]], "split": "test"},
        {"audio": str(source / "b.wav"), "id": "second one", "text": "B"},
        {"audio": "gone.wav"},
    ]
    path = source / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (skipped,) = make_folder(path, out).skipped
    assert (Path(skipped.audio).name, skipped.reason) == ("gone.wav", "does not exist")
    items = by_id(out)
    assert items["a"].text == "hi you"
    assert items["a"].words == (("hi", 0.1, 0.2), ("you", 0.3, 0.5))
    assert items["a"].split == "test"
    assert items["second-one"].text == "B"


def test_a_corpus_is_a_source_too(source: Path, out: Path, tmp_path: Path) -> None:
    sound(source / "a.wav")
    make_folder(source, out)
    make_folder(out, tmp_path / "again")
    assert read_manifest(tmp_path / "again") == read_manifest(out)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"audio": "a.wav", "words": [{"word": "x", "start": 0, "end": 1}]}',
            r'list\.jsonl:1: words: a list is wanted, of \["word", start, end\]',
        ),
        ('{"txt": "x"}', r"list\.jsonl:1: txt: unknown field; did you mean text\? \(and 1 more"),
        ('{"audio": "a.wav", "txt": "x"}', r"list\.jsonl:1: txt: unknown field; did you mean text"),
        ('{"audio": "a.wav", "words": [["a", 2, 1]]}', "timed from 2.0 to 1.0"),
        ('{"audio": "a.wav", "split": "some"}', "split"),
        ("{", r"list\.jsonl:1: not JSON"),
        ("3", "not an object"),
        ("", "lists no recordings"),
    ],
)
def test_a_wrong_manifest_is_refused_by_its_line(
    source: Path, out: Path, line: str, message: str
) -> None:
    source.mkdir()
    (source / "list.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        make_folder(source / "list.jsonl", out)


def test_sources_that_hold_nothing_are_refused(source: Path, out: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        make_folder(source, out)
    (source / "empty").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no sound files"):
        make_folder(source / "empty", out)
    sound(source / "a.wav", 0.2)
    with pytest.raises(InputError, match=r"none of the 1 recordings .* too short"):
        make_folder(source, out)
    with pytest.raises(UnknownNameError, match="did you mean librispeech"):
        make_folder(source, out, FolderOptions(layout="libri-speech"))
    (source / "metadata.csv").write_text("no bars here\n")
    with pytest.raises(InputError, match=r"metadata\.csv:1"):
        make_folder(source, out)
    (source / "metadata.csv").write_bytes(b"a|\xff\xfe|b\n")
    with pytest.raises(InputError, match="not UTF-8"):
        make_folder(source, out)


def test_the_split_depends_on_the_audio_and_not_on_its_name(source: Path, out: Path) -> None:
    for index in range(40):
        sound(source / f"{index}.wav", 1.0, seed=index)
    make_folder(source, out)
    first = {item.sha256: item.split for item in read_manifest(out)}
    assert set(first.values()) == {"train", "validation", "test"}
    for path in sorted(source.iterdir()):
        path.rename(source / f"renamed-{path.name}")
    make_folder(source, out)
    assert {item.sha256: item.split for item in read_manifest(out)} == first


def test_equal_names_get_different_ids(source: Path, out: Path) -> None:
    for name in ("a b.wav", "a-b.wav", "a-b.flac"):
        sound(source / name, seed=sum(map(ord, name)))
    make_folder(source, out)
    assert len(by_id(out)) == 3


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has heard nothing yet."""
    monkeypatch.setenv("CALM_BENCH_HOME", str(tmp_path / "home"))


@pytest.fixture
def looks(home: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded."""
    seen: list[str] = []
    examine = sounds.examine

    def watched(path: Path, *rest: Any) -> Any:
        seen.append(path.name)
        return examine(path, *rest)

    monkeypatch.setattr(sounds, "examine", watched)
    return seen


def test_files_are_inspected_once(
    source: Path, out: Path, tmp_path: Path, looks: list[str]
) -> None:
    sound(source / "a.wav")
    sound(source / "b.wav")
    make_folder(source, out)
    make_folder(source, out)
    sound(source / "c.wav")
    make_folder(source, tmp_path / "another")
    assert sorted(looks) == ["a.wav", "b.wav", "c.wav"]


@pytest.mark.usefixtures("home")
def test_a_long_recording_is_hashed_once_for_all_its_stretches(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = sound(source / "long.wav", 9), list[Path]()
    lines = [{"audio_filepath": "long.wav", "offset": 3 * i, "duration": 2} for i in range(3)]
    (source / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    digest = hashlib.file_digest

    def counted(file: Any, algorithm: str) -> Any:
        read.append(Path(file.name))
        return digest(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    make_folder(source / "list.jsonl", out, jobs=1)
    assert read.count(path) == 1
    assert {item.sha256 for item in read_manifest(out)} == {file_hash(path)}


@pytest.mark.usefixtures("home")
def test_a_decoder_that_raises_costs_one_file(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound(source / "a.wav", seed=1)
    sound(source / "b.wav", seed=2)
    examine = sounds.examine

    def broken(path: Path, *rest: Any) -> Any:
        if path.name == "a.wav":
            raise ValueError("array is too big")
        return examine(path, *rest)

    monkeypatch.setattr(sounds, "examine", broken)
    result = call("data", "folder", source, "--out", out, code=4)
    assert "1 recording could not be read" in result.text
    assert list(by_id(out)) == ["b"]
    (skipped,) = read_card(out).skipped
    assert skipped.audio.endswith("a.wav")
    assert skipped.reason == "cannot be read: ValueError: array is too big"


def test_what_no_decoder_takes_or_is_not_there_is_a_failure_and_what_is_silent_is_none(
    source: Path, out: Path
) -> None:
    sound(source / "a.wav", seed=1)
    soundfile.write(source / "mute.wav", np.zeros(32000), 16000)
    soundfile.write(source / "brief.wav", np.full(1600, 0.1), 16000)
    for more in ((), ("--json",)):
        call("data", "folder", source, "--out", out, *more)
    for name, damage in (("voice.m4a", b"no sound"), ("empty.wav", b"")):
        (source / name).write_bytes(damage)
    for more in ((), ("--json",)):
        call("data", "folder", source, "--out", out, *more, code=4)
    found = {Path(skipped.audio).name: skipped.failed for skipped in read_card(out).skipped}
    assert found == {"mute.wav": False, "brief.wav": False, "voice.m4a": True, "empty.wav": True}


def test_a_file_put_in_the_place_of_another_is_seen(
    source: Path, out: Path, looks: list[str]
) -> None:
    path = sound(source / "a.wav", seed=1)
    before = path.stat()
    call("data", "folder", source, "--out", out)
    first = by_id(out)["a"].sha256
    sound(path, seed=2)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    for _ in range(2):
        call("data", "folder", source, "--out", out)
        assert by_id(out)["a"].sha256 == file_hash(path) != first
    assert looks == ["a.wav", "a.wav"]


def test_json_lines_end_at_the_newline_alone(source: Path, out: Path, tmp_path: Path) -> None:
    text = "one\u2028two\u0085three\x0bfour\x1cfive"
    sound(source / "a.wav")
    line = json.dumps({"audio": "a.wav", "text": text, "split": "test"}, ensure_ascii=False)
    (source / "list.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n".encode())
    for origin, target in ((source / "list.jsonl", out), (out, tmp_path / "again")):
        call("data", "folder", origin, "--out", target)
        assert by_id(target)["a"].text == text


def test_recordings_listed_in_another_language_are_not_heard_as_english(
    source: Path, out: Path
) -> None:
    sound(source / "a.wav")
    line = {"audio": "a.wav", "text": "Guten Tag", "language": "de-DE"}
    (source / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    arguments = ("data", "folder", str(source), "--out", str(out))
    found = call(*arguments, "--transcribe", "faster-whisper", code=2)
    said = found.text
    assert "1 of 1 recordings are not in 'en', a for one is in 'de-DE': say --language" in said
    call(*arguments, "--language", "de", code=2)  # nobody listens
    call(*arguments)


def test_one_command_at_a_time(source: Path, out: Path) -> None:
    sound(source / "a.wav")
    out.mkdir()
    with locked(out / ".lock"), pytest.raises(BenchError, match="another process"):
        make_folder(source, out)


def test_the_corpus_carries_the_terms_that_its_maker_names(source: Path, out: Path) -> None:
    for name in "abc":
        sound(source / f"{name}.wav")
    lines = [{"audio": "a.wav", "licence": "CC0"}, {"audio": "b.wav"}, {"audio": "c.wav"}]
    path = source / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "terms: not stated (2), CC0 (1)" in call("data", "folder", path, "--out", out).text
    result = call("data", "folder", path, "--out", out, "--licence", "CC BY 4.0")
    assert "terms: CC BY 4.0 (2), CC0 (1)" in result.text
    assert [by_id(out)[name].licence for name in "abc"] == ["CC0", "CC BY 4.0", "CC BY 4.0"]
    assert f"the place of a corpus that `calm-bench data folder {path} --out {out}" in result.text
    assert read_card(out).licences == {"CC BY 4.0": 2, "CC0": 1}
    result = call("data", "folder", path, "--out", out, "--licence", "CC BY 4.0")
    assert "takes the place" not in result.text


def test_what_a_corpus_was_made_by_makes_it_again(source: Path, out: Path) -> None:
    for name in ("a_1", "a_2", "b_1"):
        sound(source / f"{name}.wav")
    given = ["--licence", "CC BY 4.0", "--group-by", "^(.)_", "--min-seconds", "0.5"]
    call("data", "folder", source, "--out", out, *given)
    before, command = (out / "manifest.jsonl").read_bytes(), shlex.split(folder_command(out))
    assert {*given} < {*command}
    (out / "manifest.jsonl").unlink()
    call(*command[1:])
    assert (out / "manifest.jsonl").read_bytes() == before
    assert "--transcribe faster-whisper" in folder_command(out, transcribe="faster-whisper")


def test_a_corpus_of_ours_is_made_again_by_its_own_word(tmp_path: Path) -> None:
    settings = {"seed": 3, "stories": {"train": 64, "test": 8}}
    for name, more in {"small": {}, "loud": {"voices": {"joe": []}}}.items():
        write_corpus(tmp_path / name, [], kind="speech", settings={**settings, **more})
    made = data_command(tmp_path / "small", "small")
    assert made == "calm-bench data speech --train 64 --test 8 --seed 3 --out small"
    assert data_command(tmp_path / "small", "speech") == "calm-bench data speech"
    assert data_command(tmp_path / "loud", "loud").startswith("calm-bench data voices --train 64")
    played = {"seed": 0, "recordings": {"train": 9}, "sample_rate": 24000}
    write_corpus(tmp_path / "hifi", [], kind="music", settings=played)
    made = data_command(tmp_path / "hifi", "hifi")
    assert made == "calm-bench data music --train 9 --sample-rate 24000 --seed 0 --out hifi"


class Listener:
    """A recogniser with a fixed answer per number of samples."""

    recipe: dict[str, str] = {"engine": "listener"}  # noqa: RUF012

    def __init__(self, answers: dict[int, str]) -> None:
        self.answers, self.heard = answers, 0

    def transcribe_all(self, clips: Iterable[Any]) -> Iterator[Transcript]:
        for wave, _ in clips:
            self.heard += 1
            text = self.answers[wave.size]
            each = enumerate(text.split())
            words = (TimedWord(word=w, start=k / 10, end=k / 10 + 0.1) for k, w in each)
            yield Transcript(text=text, words=tuple(words))


@pytest.mark.usefixtures("home")
def test_missing_texts_and_times_are_transcribed_once(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        {"audio": "a.wav"},
        {"audio": "b.wav", "text": "Big dogs bark."},
        {"audio": "c.wav", "text": "Nothing of that was said."},
        {"audio": "d.wav", "words": [["known", 0.0, 0.2]]},
        {"audio": "e.wav"},
    ]
    for index, line in enumerate(lines):
        sound(source / str(line["audio"]), 1.0 + index / 10)
    path = source / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    answers = {8000: "hello there", 8800: "big dogs bark", 9600: "la la la", 11200: ""}
    listener = Listener(answers)
    monkeypatch.setattr(module, "load_recognizer", lambda name: listener)
    options = FolderOptions(transcribe="faster-whisper")
    for _ in range(2):
        card = make_folder(path, out, options)
        items = by_id(out)
        assert (items["a"].text, items["a"].text_source) == ("hello there", "transcribed")
        assert items["a"].words == (("hello", 0.0, 0.1), ("there", 0.1, 0.2))
        assert (items["b"].text, items["b"].text_source) == ("Big dogs bark.", "given")
        assert items["b"].words == (("Big", 0.0, 0.1), ("dogs", 0.1, 0.2), ("bark.", 0.2, 0.3))
        assert items["c"].words is None
        assert items["d"].words == (("known", 0.0, 0.2),)
        assert items["e"].text is None
        counts = dict.fromkeys(("transcribed", "aligned", "not_aligned", "nothing_heard"), 1)
        assert card.checks["text"] == {"recogniser": {"engine": "listener"}, **counts}
    assert listener.heard == 4


def test_a_manifest_that_has_lost_recordings_is_told(
    source: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abcd":
        sound(source / f"{name}.wav")
    make_folder(source, out)
    assert len(read_manifest(out)) == 4
    assert not caplog.messages
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[:3]))
    assert len(read_manifest(out)) == len(read_manifest(out)) == 3
    assert [f"{out / 'manifest.jsonl'} is not as it was made" in m for m in caplog.messages] == [
        True
    ]
    make_folder(source, out)
    assert len(read_manifest(out)) == 4
    assert len(caplog.messages) == 1
