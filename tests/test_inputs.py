"""Inputs as folders, corpora, recorders and tools really leave them, through the commands."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from commands import Said, call
from numpy.typing import NDArray

RATE = 16000
Wave = NDArray[np.float64]
Code = int | tuple[int, ...]


class Answer(Said):
    """What a command answered, by number where it scored."""

    def row(self, metric: str, cell: str = "clips") -> dict[str, Any]:
        rows = {(row["cell_id"], row["metric"]): row for row in self.json["rows"]}
        return dict(rows[cell, metric])

    def value(self, metric: str, cell: str = "clips") -> float:
        row = self.row(metric, cell)
        assert row["value"] is not None, row["reason"]
        return float(row["value"])

    def n(self, metric: str, cell: str = "clips") -> int:
        return int(self.row(metric, cell)["n"])


Score = Callable[..., Answer]


def command(*words: object, code: Code = 0) -> Answer:
    """Run one command line, which has to end with this exit code."""
    return Answer(**vars(call(*words, code=code)))


def noise(seed: int, seconds: float = 1.0, rate: int = RATE) -> Wave:
    wave = np.random.default_rng(seed).normal(size=int(seconds * rate))
    return 0.1 * (wave - wave.mean())


def version(original: Wave, decibels: float, seed: int = 99) -> Wave:
    """The original with as much noise, at right angles to it, as gives exactly this SI-SDR."""
    added = np.random.default_rng(seed).normal(size=original.size)
    added -= added.mean()
    added -= original * (added @ original) / (original @ original)
    added *= np.linalg.norm(original) / np.linalg.norm(added)
    return original + added / 10 ** (decibels / 20)


def write(path: Path, wave: Wave, rate: int = RATE, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not how and path.suffix.lower() == ".wav":
        how = {"subtype": "FLOAT"}
    soundfile.write(path, wave, rate, **how)
    return path


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return tmp_path / "ours"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return tmp_path / "theirs"


@pytest.fixture
def score(tmp_path: Path, ours: Path, theirs: Path) -> Score:
    """Scores one folder against the other: with what is kept, with all kept, and with nothing."""
    runs = (tmp_path / f"run{index}" for index in range(99))

    def scored(
        *words: object, clips: Path = ours, out: Path | None = None, code: Code = 0
    ) -> Answer:
        options: list[object] = list(words)
        if "--reference" not in options and theirs.exists():
            options += ["--reference", theirs]
        if "--metrics" not in options:
            paired = ["fidelity"] if "--reference" in options else []
            options += ["--metrics", *paired, "loudness"]
        options += ["--json", "--out"]
        said = command("score", clips, *options, out or next(runs), code=code)
        with pytest.MonkeyPatch.context() as patch:
            for empty in (False, True) if said.code != 2 else ():
                run = next(runs)
                if empty:
                    patch.setenv("CALM_BENCH_HOME", str(tmp_path / f"home of {run.name}"))
                again = command("score", clips, *options, run, code=said.code)
                for part in ("rows", "notes"):
                    assert again.json.get(part) == said.json.get(part)
        return said

    return scored


# Identity


def test_recordings_below_half_a_step_of_16_bits(
    score: Score, ours: Path, theirs: Path, tmp_path: Path
) -> None:
    for index in range(3):
        original = 1e-4 * noise(index)
        write(theirs / f"{index}.wav", original)
        write(ours / f"{index}.wav", version(original, 20))
        write(tmp_path / "other" / f"{index}.wav", version(original, 10))
    assert score().value("si_sdr") == pytest.approx(20, abs=0.05)
    assert score(clips=tmp_path / "other").value("si_sdr") == pytest.approx(10, abs=0.05)


def test_dual_mono_and_flac_of_a_recording_are_copies_of_it(score: Score, ours: Path) -> None:
    wave = np.round(noise(1) * 32768) / 32768
    write(ours / "a.wav", wave, subtype="PCM_16")
    write(ours / "b.wav", np.stack([wave, wave], axis=1), subtype="PCM_16")
    write(ours / "c.flac", wave, subtype="PCM_16")
    said = score()
    assert said.n("loudness") == 1
    assert "distinct 1" in said.text


def test_an_original_replaced_under_its_name_size_and_time(
    score: Score, ours: Path, theirs: Path, tmp_path: Path
) -> None:
    path = write(theirs / "a.wav", noise(1))
    write(ours / "a.wav", version(noise(1), 20))
    assert score(out=tmp_path / "run").value("si_sdr") == pytest.approx(20, abs=0.05)
    before = path.stat()
    write(path, version(version(noise(1), 20), 10, seed=3))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert "other options or recordings" in score(out=tmp_path / "run", code=2).text
    assert score().value("si_sdr") == pytest.approx(10, abs=0.5)


def test_one_folder_against_two_references(score: Score, ours: Path, tmp_path: Path) -> None:
    for index in range(16):
        write(ours / f"{index}.wav", noise(index, 3))
        write(tmp_path / "one" / f"{index}.wav", noise(100 + index, 3))
        write(tmp_path / "two" / f"{index}.wav", np.cumsum(noise(200 + index, 3)) / 30)
    words = ("--metrics", "fad", "kad", "--embedding", "mel", "--reference")
    first = score(*words, tmp_path / "one")
    second = score(*words, tmp_path / "two")
    for metric in ("fad", "kad"):
        assert second.value(metric) > 2 * first.value(metric)


def pairs(ours: Path, theirs: Path, *names: str) -> None:
    """Recordings of a third of a second under these names, and versions of them."""
    for name in names:
        original = noise(sum(name.encode()), 0.3)
        write(theirs / name, original)
        write(ours / name, version(original, 20))


def test_24_bits_of_a_quiet_recording_and_16_of_them(
    score: Score, ours: Path, theirs: Path
) -> None:
    for name, coding in (("a.wav", "PCM_24"), ("b.wav", "PCM_16")):
        write(theirs / name, 1e-2 * noise(1, 0.3))
        write(ours / name, 1e-2 * noise(1, 0.3), subtype=coding)
    said = score("--metrics", "fidelity")
    assert said.n("si_sdr") == 2
    assert f"{ours}: n 2" not in said.text
    row = said.row("si_sdr")
    # Bits are worth 6.02 dB each; Student's t of two values is 12.706 times half their distance.
    assert (row["high"] - row["low"]) / 12.706 == pytest.approx(8 * 6.02, abs=1)


@pytest.mark.parametrize("rule", ["", "x*", r"^(\d*)", "["])
def test_a_rule_of_groups_that_finds_nothing(score: Score, ours: Path, rule: str) -> None:
    write(ours / "a.wav", noise(1, 0.3))
    said = "nor a pattern" if rule == "[" else "nothing like it in a.wav"
    assert said in score("--group-by", rule, code=2).text


def corpus(source: Path, *words: object, code: Code = 0) -> tuple[Answer, list[Any]]:
    """List a corpus, and give back what was said and the lines of its manifest."""
    out = source.parent / f"listed {source.name}"
    words = ("--out", out, "--json", "--min-seconds", 0.2, *words)
    said = command("data", "folder", source, *words, code=code)
    lines = (out / "manifest.jsonl").read_text("utf-8").split("\n") if said.code == 0 else []
    return said, [json.loads(line) for line in lines if line]


# Folders and pairs


@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_against_itself(score: Score, ours: Path, tmp_path: Path, linked: bool) -> None:
    write(ours / "a.wav", noise(1))
    link = tmp_path / "link"
    link.symlink_to(ours)
    said = score("--reference", link if linked else ours, code=2)
    assert "same" in said.text


def test_names_that_shells_and_globs_trip_over(score: Score, ours: Path, theirs: Path) -> None:
    names = ("take [1]", "100% (final)", "#3", "-a", "ü ß", "two  spaces", "{x}", "a\nb", "c\td")
    for index, name in enumerate(names):
        write(theirs / f"{name}.wav", noise(index))
        write(ours / f"{name}.wav", version(noise(index), 20))
    assert score().n("si_sdr") == len(names)


def test_unreadable_names_are_printed_as_they_are(score: Score, ours: Path, tmp_path: Path) -> None:
    names = ("[red]x.wav", "take [bold].wav", "[@click=x]y.wav")
    write(ours / "good.wav", noise(1))
    for name in names:
        (ours / name).write_bytes(b"nothing")
    said = score(code=4)
    assert said.n("loudness") == 1
    table = command("score", ours, "--metrics", "loudness", "--out", tmp_path / "run", code=4)
    for name in names:
        assert name in said.text
        assert name in table.text


def test_what_tools_leave_beside_recordings(score: Score, ours: Path) -> None:
    for name in ("a.wav", "b.wav"):
        write(ours / name, noise(ord(name[0])))
    left = ("Thumbs.db", "desktop.ini", ".DS_Store", "b.lab", "a.txt", "a.json", "a.TextGrid")
    for name in (*left, "a.wav.bak", "a.wav.asd", "a.wav.reapeaks", "__MACOSX/._a.wav"):
        (ours / name).parent.mkdir(exist_ok=True)
        (ours / name).write_bytes(b"\0\5\x16\7")
    assert score().n("loudness") == 2


def test_one_folder_of_nine_formats(score: Score, ours: Path, theirs: Path) -> None:
    suffixes = ("MP3", "ogg", "Opus", "AIFF", "au", "w64", "caf", "flac", "WAV")
    for index, suffix in enumerate(suffixes):
        how = {"format": "OGG", "subtype": "OPUS"} if suffix == "Opus" else {}
        write(theirs / f"{index}.wav", noise(index))
        write(ours / f"{index}.{suffix}", version(noise(index), 20), **how)
    said = score()
    assert said.n("si_sdr") == said.n("loudness") == 9


def test_three_takes_of_each_original(score: Score, ours: Path, theirs: Path) -> None:
    for index, name in enumerate("ab"):
        write(theirs / f"{name}.wav", noise(index, 0.3))
        for take in range(3):
            write(ours / f"{name}_{take}.wav", version(noise(index, 0.3), 20, seed=10 + take))
    said = score("--metrics", "fidelity", "--pair-by", "{}_*")
    assert (said.n("si_sdr"), said.value("si_sdr")) == (6, pytest.approx(20, abs=0.05))
    assert f"{ours}: 2 recordings, each resampled with all its clips" in said.text


def test_paths_that_go_up_and_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my data"
    pairs(folder / "C", folder / "R", "a.wav", "b.wav")
    monkeypatch.chdir(folder)
    words = ("--metrics", "fidelity", "--json", "--out", "../run")
    said = command("score", "./C/", "--reference", "C/../R/.", *words)
    assert (said.n("si_sdr"), said.value("si_sdr")) == (2, pytest.approx(20, abs=0.05))


def test_links_to_files_without_a_suffix(score: Score, ours: Path, theirs: Path) -> None:
    for side in (ours, theirs):
        (side / "snapshots").mkdir(parents=True)
    pairs(ours / "blobs", theirs / "blobs", "a.wav", "b.wav")
    for side in (ours, theirs):
        for name in ("a", "b"):
            (side / "blobs" / f"{name}.wav").rename(side / "blobs" / f"0{name}0")
            (side / "snapshots" / f"{name}.wav").symlink_to(f"../blobs/0{name}0")
    words = ("--metrics", "fidelity", "--reference", theirs / "snapshots")
    said = score(*words, clips=ours / "snapshots")
    assert (said.n("si_sdr"), said.value("si_sdr")) == (2, pytest.approx(20, abs=0.05))


def test_folders_without_sound(score: Score, ours: Path, theirs: Path, tmp_path: Path) -> None:
    pairs(ours, theirs, "a.wav")
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.mkdir()
    text.mkdir()
    (text / "a.txt").write_text("nothing")
    (text / ".b.wav").touch()
    assert f"{empty} holds no sound files" in score(clips=empty, code=2).text
    for path, reason in (
        (empty, "it is empty"),
        (text, f"it holds 1 .txt; hidden in {text} and left out: .b.wav"),
        (tmp_path / "gone", "does not exist"),
        (theirs / "a.wav", "is no folder"),
    ):
        said = score("--reference", path, code=2)
        assert str(path) in said.text
        assert reason in said.text


def test_a_name_in_latin_1(score: Score, ours: Path, theirs: Path) -> None:
    pairs(ours, theirs, "a.wav", "b.wav")
    for side in (ours, theirs):
        try:
            (side / "b.wav").rename(side / os.fsdecode(b"caf\xe9.wav"))
        except OSError:
            pytest.skip("this file system takes UTF-8 alone")
    said = score("--metrics", "fidelity", code=4)
    assert (said.n("si_sdr"), said.value("si_sdr")) == (1, pytest.approx(20, abs=0.05))
    assert "has a name that is no UTF-8: rename it" in said.text


@pytest.mark.parametrize("rule", ["", "gen", "{}{}", "{x}", "{}=", "={}", "{}_gen=orig"])
def test_templates_that_are_none(score: Score, ours: Path, theirs: Path, rule: str) -> None:
    pairs(ours, theirs, "a.wav")
    said = f"--pair-by {rule!r} is neither path, nor stem, nor a template with one {{}}"
    assert said in score("--pair-by", rule, code=2).text


# Files


def test_files_that_hold_no_sound(score: Score, ours: Path) -> None:
    for name in ("good", "fine"):
        write(ours / f"{name}.wav", noise(len(name) + ord(name[0])))
    write(ours / "header.wav", np.zeros(0))
    broken = {
        "empty.wav": b"",
        "page.wav": b"<!DOCTYPE html><html><body>Please log in</body></html>",
        "pointer.wav": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        **dict.fromkeys(("phone.m4a", "a.wma", "a.raw"), b"\xff" * 999),
        "torn.flac": b"fLaC" + b"\xff" * 999,
    }
    for name, content in broken.items():
        (ours / name).write_bytes(content)
    (ours / "link.wav").symlink_to(ours.parent / "nowhere.wav")
    said = score(code=4)
    assert said.n("loudness") == 2
    assert said.json["trials"]["clips"] == {"ok": 2, "failed": 9, "unscored": 0}
    assert all(name in said.text for name in [*broken, "header.wav", "link.wav"])


def test_samples_that_are_no_numbers(score: Score, ours: Path) -> None:
    for index in range(2):
        write(ours / f"good{index}.wav", noise(index))
    good = score()
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        wave = noise(7)
        wave[800] = value
        write(ours / name, wave)
    said = score(code=4)
    assert said.n("loudness") == 2
    assert said.value("loudness") == good.value("loudness")
    assert all(name in said.text for name in ("nan.wav", "inf.wav"))


def test_eight_codings_of_one_recording(score: Score, ours: Path, theirs: Path) -> None:
    codings = ("PCM_U8", "PCM_24", "PCM_32", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")
    for index, coding in enumerate(codings):
        write(theirs / f"{coding}.wav", 3 * noise(index))
        write(ours / f"{coding}.wav", 3 * noise(index), subtype=coding)
    said = score()
    assert said.n("si_sdr") == 7
    assert said.row("si_sdr")["reason"] == "SI-SDR of a perfect copy has no bound (DOUBLE.wav)"
    assert said.value("si_sdr") > 20
    assert said.value("loudness") == pytest.approx(said.value("loudness", "reference"), abs=0.3)


def test_odd_rates_through_metrics_of_pairs(score: Score, ours: Path, theirs: Path) -> None:
    for rate in (4000, 11025, 96000):
        write(theirs / f"{rate}.wav", noise(rate, 1.0, rate), rate)
        write(ours / f"{rate}.wav", version(noise(rate, 1.0, rate), 20), rate)
    metrics = ("fidelity", "loudness", "drift", "stoi", "pesq")
    said = score("--metrics", *metrics, code=(0, 4))
    assert said.n("loudness") == said.n("si_sdr") == 3
    assert all(row["value"] is not None or row["reason"] for row in said.json["rows"])


def test_sound_in_one_of_six_channels(score: Score, ours: Path, theirs: Path) -> None:
    for index in range(2):
        channels = np.zeros((RATE, 6))
        channels[:, 2] = noise(index)
        write(ours / f"{index}.wav", channels)
        write(theirs / f"{index}.wav", noise(index))
    said = score()
    drop = said.value("loudness") - said.value("loudness", "reference")
    assert drop == pytest.approx(-20 * np.log10(6), abs=0.02)


def test_pipes_and_folders_with_the_names_of_recordings(score: Score, ours: Path) -> None:
    write(ours / "good.wav", noise(1))
    write(ours / "song.wav" / "take1.wav", noise(2))
    os.mkfifo(ours / "live.wav")
    said = score(code=(0, 4))
    assert said.n("loudness") == 2
    assert "live.wav" in said.text


def test_clips_of_one_and_of_ten_samples(score: Score, ours: Path, theirs: Path) -> None:
    for name, samples in (("one", 1), ("ten", 10), ("a", RATE), ("b", RATE), ("c", RATE)):
        original = np.random.default_rng(samples + ord(name[-1])).normal(size=samples) / 10
        write(theirs / f"{name}.wav", original)
        write(ours / f"{name}.wav", version(original, 20) if samples > 10 else original)
    metrics = ("fidelity", "loudness", "drift", "stoi", "fad", "kad")
    said = score("--metrics", *metrics, "--embedding", "mel", code=(0, 4))
    assert all(row["value"] is not None or row["reason"] for row in said.json["rows"])
    for metric in ("si_sdr", "loudness", "stoi"):
        assert said.n(metric) == 3
        assert "one.wav" in said.row(metric)["reason"]


def riff(
    wave: Wave, rate: int = RATE, channels: int = 1, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A WAV of float32 samples, its header as told, with chunks before and after the samples."""
    fields = struct.pack("<HHIIHH", 3, channels, rate, 4 * rate % 2**32, 4, 32)
    parts = chunk(b"fmt ", fields) + before + chunk(b"data", wave.astype("<f4").tobytes()) + after
    return chunk(b"RIFF", b"WAVE" + parts)


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def test_chunks_around_the_samples(score: Score, ours: Path, theirs: Path) -> None:
    pairs(ours, theirs, "bext.wav", "list.wav", "extensible.wav")
    for name, before, after in (
        ("bext", chunk(b"bext", bytes(300_001)), chunk(b"id3 ", b"ID3\x03" + bytes(17))),
        ("list", chunk(b"LIST", b"INFOICMT\x05\0\0\0noise\0"), chunk(b"junk", b"\0")),
    ):
        wave, _ = soundfile.read(ours / f"{name}.wav")
        (ours / f"{name}.wav").write_bytes(riff(wave, before=before, after=after))
    wave, _ = soundfile.read(ours / "extensible.wav")
    write(ours / "extensible.wav", wave, format="WAVEX", subtype="PCM_24")
    said = score("--metrics", "fidelity")
    assert (said.n("si_sdr"), said.value("si_sdr")) == (3, pytest.approx(20, abs=0.05))


def test_other_formats_under_the_suffix_of_a_wav(score: Score, ours: Path, theirs: Path) -> None:
    codings = {"FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}
    pairs(ours, theirs, *(f"{name}.wav" for name in codings))
    for name, coding in codings.items():
        wave, _ = soundfile.read(ours / f"{name}.wav")
        write(ours / f"{name}.wav", wave, format=name, subtype=coding)
    assert score("--metrics", "fidelity").n("si_sdr") == 3


def test_an_mp3_with_its_cover(score: Score, ours: Path) -> None:
    path = write(ours / "plain.mp3", noise(0, 0.5))
    size, picture = 50_000, np.random.default_rng(0).bytes(49_990)
    bits = bytes(size >> shift & 127 for shift in (21, 14, 7, 0))
    tag = b"ID3\x03\0\0" + bits + b"APIC" + struct.pack(">I", size - 10) + b"\0\0" + picture
    (ours / "tagged.mp3").write_bytes(tag + path.read_bytes() + b"TAG" + bytes(125))
    said = score("--metrics", "loudness")
    assert said.n("silence_share") == 1
    assert "n 2, distinct 1" in said.text


def test_an_offset_a_click_and_a_square_wave(score: Score, ours: Path, theirs: Path) -> None:
    pairs(ours, theirs, "offset.wav", "click.wav", "square.wav", "good.wav")
    silence = np.zeros(RATE // 2)
    write(ours / "offset.wav", silence + 0.5)
    click = silence.copy()
    click[4000] = 0.9
    write(ours / "click.wav", click)
    write(ours / "square.wav", np.sign(np.sin(np.arange(RATE // 2) / 5)))
    said = score("--metrics", "fidelity", "loudness", "stoi", "drift", code=(0, 4))
    assert all(row["value"] is not None or row["reason"] for row in said.json["rows"])
    assert said.row("si_sdr")["reason"] == "SI-SDR of silence is not defined (offset.wav)"
    assert "offset.wav" in said.row("loudness")["reason"]


def test_headers_of_no_rate_and_no_channels(score: Score, ours: Path, theirs: Path) -> None:
    pairs(ours, theirs, "a.wav", "b.wav")
    bad = {
        "never.wav": riff(noise(5, 0.3), rate=0),
        "seldom.wav": riff(noise(5, 0.3), rate=1),
        "often.wav": riff(noise(5, 0.3), rate=2_000_000_000),
        "nowhere.wav": riff(noise(5, 0.3), channels=0),
    }
    for name, content in bad.items():
        (ours / name).write_bytes(content)
    said = score("--metrics", "fidelity", code=4)
    assert (said.n("si_sdr"), said.value("si_sdr")) == (2, pytest.approx(20, abs=0.05))
    assert all(name in said.text for name in bad)


def test_a_clip_of_less_than_one_sample_at_another_rate(
    score: Score, ours: Path, theirs: Path
) -> None:
    pairs(ours, theirs, "a.wav", "b.wav", "c.wav")
    write(ours / "b.wav", noise(5, 0.3)[:1], 48000)
    said = score("--metrics", "fidelity", code=(0, 4))
    assert (said.n("si_sdr"), said.value("si_sdr")) == (2, pytest.approx(20, abs=0.05))
    assert "b.wav" in said.row("si_sdr")["reason"]


# Corpora


def test_splits_in_the_path_above_the_corpus(tmp_path: Path) -> None:
    source = tmp_path / "test" / "train data" / "corpus"
    for index, split in enumerate(("train", "train", "dev", "test")):
        write(source / split / f"{index}.wav", noise(index, 0.5))
    _, items = corpus(source)
    splits = {Path(item["audio"]).stem: item["split"] for item in items}
    assert splits == {"0": "train", "1": "train", "2": "validation", "3": "test"}


def test_kaldi_pipes_are_named_and_never_run(tmp_path: Path) -> None:
    source, ran = tmp_path / "data", tmp_path / "ran"
    paths = [write(tmp_path / "wav" / f"{index}.wav", noise(index, 0.3)) for index in range(2)]
    source.mkdir()
    (source / "wav.scp").write_text(f"u0 {paths[0]}\nu1 touch {ran}; cat {paths[1]} |\n")
    (source / "text").write_text("u0 hello\nu1 there\n")
    (source / "utt2spk").write_text("u0 s0\nu1 s1\n")
    said, _ = corpus(source, code=2)
    assert f"{source / 'wav.scp'}:2: u1 is no sound file but a pipe" in said.text
    assert not ran.exists()


def test_a_corpus_without_one_usable_recording(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write(source / "mute.wav", np.zeros(RATE))
    write(source / "short.wav", noise(1, 0.05))
    write(source / "shorter.wav", noise(1, 0.02))
    (source / "zero.wav").write_bytes(b"")
    said, _ = corpus(source, code=2)
    assert f"none of the 4 recordings in {source} is usable" in said.text
    assert "short.wav: too short: 0.05 s, less than 0.2 s, and 1 more like it" in said.text
    assert "mute.wav: silent" in said.text
    assert "zero.wav: is empty (0 bytes)" in said.text
    assert not (tmp_path / "listed source" / "manifest.jsonl").exists()


# Real recordings


def continued(tmp_path: Path, *paths: object, code: Code = 0) -> Answer:
    """What `run smoke` says of one's own recordings."""
    words = ("--no-latency", "--systems", "calm", "--temps", "0.8", "--json", "--out")
    return command("run", "smoke", *words, tmp_path / "run", "--prompt-audio", *paths, code=code)


def test_two_prompts_of_one_name(tmp_path: Path) -> None:
    paths = [write(tmp_path / name / "1.wav", noise(ord(name), 1.5)) for name in "ab"]
    said = continued(tmp_path, *paths)
    assert said.n("loudness", "reference") == 2
    clips = [path for path in (tmp_path / "run" / "clips").rglob("*") if path.is_file()]
    assert len({path.read_bytes() for path in clips if "ref" in path.parent.name}) == 2


def planned(tmp_path: Path, path: Path, code: Code = 0) -> str:
    """What the plan of `run smoke` says of one's own recordings."""
    words = ("--dry-run", "--systems", "calm", "--out", tmp_path / "run")
    return command("run", "smoke", *words, "--prompt-audio", path, code=code).text


def test_lists_of_other_programs(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", noise(1, 1.5))
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,hello there\n")
    (tmp_path / "playlist.m3u").write_text("#EXTM3U\na.wav\n")
    said = planned(tmp_path, tmp_path / "metadata.csv")
    assert "texts without times: those of 1 of 1 prompt" in said
    said = planned(tmp_path, tmp_path / "playlist.m3u", code=2)
    assert "playlist.m3u is no list of a known form: its first line is '#EXTM3U'" in said
    assert "(`calm-bench data folder --layout` takes manifest," in said


def test_clips_at_three_times_the_rate(score: Score, ours: Path, theirs: Path) -> None:
    for index in range(2):
        spectrum = np.fft.rfft(noise(index, 0.5))
        spectrum[2000:] = 0
        write(theirs / f"{index}.wav", np.fft.irfft(spectrum, RATE // 2))
        write(ours / f"{index}.wav", 3 * np.fft.irfft(spectrum, 3 * RATE // 2), 3 * RATE)
    said = score("--metrics", "fidelity")
    assert said.n("si_sdr") == 2
    assert said.value("si_sdr") > 40
    assert said.value("coverage") == 100
