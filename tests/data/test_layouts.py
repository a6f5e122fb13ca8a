"""Tiny corpora of every known layout, read by `calm-bench data folder`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from clips import Files, lay
from commands import call
from commands import refused as refused_line

from calm_bench.data.corpus import CorpusCard, Item, read_card, read_manifest
from calm_bench.data.layouts import LAYOUTS


def read(source: Path, *options: str) -> tuple[dict[str, Item], CorpusCard]:
    """The corpus that the command makes of a source."""
    out = source.parent / "corpus"
    said = call("data", "folder", source, "--out", out, *options, code=(0, 4))
    card = read_card(out)
    assert (said.code == 4) == any(skipped.failed for skipped in card.skipped)
    return {item.id: item for item in read_manifest(out)}, card


def refused(source: Path, *options: str) -> str:
    return refused_line("data", "folder", source, "--out", source.parent / "corpus", *options)


LJ = {f"wavs/LJ001-000{k}.wav": 1.1 for k in (1, 2)}
LIBRI = {
    f"{subset}/{speaker}/5/{speaker}-5-000{k}.flac": 1.1
    for subset, speaker in (("train-clean-100", 19), ("dev-clean", 84))
    for k in (0, 1)
}
CV = "client_id\tpath\tsentence\tup_votes\n"

CASES: dict[str, tuple[str, Files, dict[str, tuple[Any, ...]]]] = {
    "three columns": (
        "ljspeech",
        {**LJ, "metadata.csv": 'LJ001-0001|Dr. "X|Doctor "X\nLJ001-0002|it is two|\n'},
        {"LJ001-0001": ('Doctor "X', None), "LJ001-0002": ("it is two", None)},
    ),
    "two columns, ids with suffix, CRLF and BOM": (
        "ljspeech",
        {**LJ, "metadata.csv": "\ufeffLJ001-0001.wav|one\r\nLJ001-0002.wav|two\u2028three\r\n"},
        {"LJ001-0001": ("one", None), "LJ001-0002": ("two\u2028three", None)},
    ),
    "a header and a folder in the ids": (
        "ljspeech",
        {
            **LJ,
            "metadata.csv": "file|speaker|text\nwavs/LJ001-0001.wav|Ann|one\n"
            "wavs/LJ001-0002.wav|Bob|two\n",
        },
        {"LJ001-0001": ("one", "Ann"), "LJ001-0002": ("two", "Bob")},
    ),
    "FLAC": (
        "ljspeech",
        {"wavs/a.flac": 1.1, "wavs/b.c.flac": 1.2, "metadata.csv": "a|one\nb.c|two\n"},
        {"a": ("one", None), "b.c": ("two", None)},
    ),
    "LibriSpeech": (
        "librispeech",
        {
            **LIBRI,
            "train-clean-100/19/5/19-5.trans.txt": "19-5-0000 HELLO THERE\n19-5-0001 HI\n",
            "dev-clean/84/5/84-5.trans.txt": "84-5-0000 GO ON\n84-5-0001\n",
            "SPEAKERS.TXT": ";ID |SEX| SUBSET\n14 | F | train-clean-360 | 25\n",
        },
        {
            "19-5-0000": ("HELLO THERE", "19", "train"),
            "19-5-0001": ("HI", "19", "train"),
            "84-5-0000": ("GO ON", "84", "validation"),
            "84-5-0001": (None, "84", "validation"),
        },
    ),
    "LibriTTS": (
        "libritts",
        {
            "test-clean/61/7/61_7_000001_000000.wav": 1.1,
            "test-clean/61/7/61_7_000001_000000.original.txt": "Mr. 3",
            "test-clean/61/7/61_7_000001_000000.normalized.txt": "Mister three\n",
            "train-other-500/9/7/9_7_000001_000000.wav": 1.2,
            "train-other-500/9/7/9_7_000001_000000.original.txt": "only this",
        },
        {
            "61_7_000001_000000": ("Mister three", "61", "test"),
            "9_7_000001_000000": ("only this", "9", "train"),
        },
    ),
    "VCTK": (
        "vctk",
        {
            "txt/p225/p225_001.txt": "Please call\nStella.\n",
            "wav48_silence_trimmed/p225/p225_001_mic1.flac": 1.1,
            "wav48_silence_trimmed/p225/p225_001_mic2.flac": 1.1,
            "wav48_silence_trimmed/p315/p315_001_mic1.flac": 1.1,
        },
        {
            "p225_001_mic1": ("Please call Stella.", "p225"),
            "p225_001_mic2": ("Please call Stella.", "p225"),
            "p315_001_mic1": (None, "p315"),
        },
    ),
    "VCTK of the first release": (
        "vctk",
        {"wav48/p225/p225_001.wav": 1.1, "txt/p225/p225_001.txt": "Please call Stella.\n"},
        {"p225_001": ("Please call Stella.", "p225")},
    ),
    "Common Voice": (
        "commonvoice",
        {
            **{f"en/clips/c{k}.mp3": 1.1 for k in range(6)},
            "en/train.tsv": f'{CV}ann\tc0.mp3\tHe said ""yes"".\t2\n',
            "en/dev.tsv": f'{CV}bob\tc1.mp3\t"""No"" is no."\t2\n',
            "en/test.tsv": f"{CV}cec\tc2.mp3\tA | B\t2\n",
            "en/validated.tsv": f'{CV}ann\tc0.mp3\tHe said ""yes"".\t2\n'
            'dan\tc3.mp3\t"the rest\t2\n',
            "en/other.tsv": f"{CV}eve\tc4.mp3\tnobody heard it\t0\n",
            "en/invalidated.tsv": f"{CV}eve\tc5.mp3\tall refused it\t0\n",
        },
        {
            "c0": ('He said "yes".', "ann", "train"),
            "c1": ('"No" is no.', "bob", "validation"),
            "c2": ("A | B", "cec", "test"),
            "c3": ('"the rest', "dan", "train"),
        },
    ),
    "Common Voice before its splits are made": (
        "commonvoice",
        {"clips/c0.mp3": 1.1, "validated.tsv": f"{CV}ann\tc0.mp3\tSentence 0.\t2\n"},
        {"c0": ("Sentence 0.", "ann")},
    ),
    "Kaldi": (
        "kaldi",
        {
            "audio/a.wav": 1.1,
            "audio/b.wav": 1.2,
            "data/train/wav.scp": "u1 audio/a.wav\n",
            "data/train/text": "u1 HELLO THERE\n",
            "data/train/utt2spk": "u1 ann\n",
            "data/dev93/wav.scp": "u2\taudio/b.wav\n",
        },
        {"u1": ("HELLO THERE", "ann", "train"), "u2": (None, None, "validation")},
    ),
    "NeMo": (
        "nemo",
        {
            "train_manifest.json": '{"audio_filepath": "a/x.wav", "duration": 1.1, "text": "one", '
            '"lang": "en"}\n',
            "test_manifest.json": '{"audio_filepath": "a/y.wav", "text": "two", "speaker": 7}\n',
            "a/x.wav": 1.1,
            "a/y.wav": 1.1,
        },
        {"a-x": ("one", None, "train"), "a-y": ("two", "7", "test")},
    ),
    "seed-tts": (
        "seed-tts",
        {
            "en/meta.lst": "u1|Say it.|prompt-wavs/p1.wav|It is said.\n"
            "u2|Say it.|prompt-wavs/p1.wav|Nobody says it.\n",
            "en/prompt-wavs/p1.wav": 1.1,
            "en/wavs/u1.wav": 1.2,
        },
        {"prompt-wavs-p1": ("Say it.", None), "u1": ("It is said.", None)},
    ),
    "audiofolder with CSV": (
        "audiofolder",
        {
            "train/metadata.csv": "file_name,transcription,speaker\n"
            'a.wav,"one, ""two""\nthree",5\n',
            "train/a.wav": 1.1,
            "test/metadata.csv": "file_name,transcription,speaker\nd/b.wav,x|y,6\n",
            "test/d/b.wav": 1.1,
        },
        {"a": ('one, "two"\nthree', "5", "train"), "d-b": ("x|y", "6", "test")},
    ),
    "audiofolder with JSON lines": (
        "audiofolder",
        {
            "metadata.jsonl": '{"file_name": "data/test/a.wav", "text": "a\u2028b"}\r\n'
            '{"file_name": "data/train/b.wav", "text": null}\n',
            "data/test/a.wav": 1.1,
            "data/train/b.wav": 1.1,
        },
        {"data-test-a": ("a\u2028b", None, "test"), "data-train-b": (None, None, "train")},
    ),
    "TIMIT": (
        "timit",
        {
            "TRAIN/DR1/FCJF0/SA1.WAV": 1.1,
            "TRAIN/DR1/FCJF0/SA1.WAV.wav": 1.1,
            "TRAIN/DR1/FCJF0/SA1.TXT": "0 17600 She had your suit.\n",
            "TRAIN/DR1/FCJF0/SA1.WRD": "1600 4800 she\n4800 8000 had\n",
            "TEST/DR2/MABC0/SX5.WAV": 1.1,
            "TEST/DR2/MABC0/SX5.WRD": "0 8000 no\n",
        },
        {
            "TRAIN-DR1-FCJF0-SA1": ("She had your suit.", "FCJF0", "train"),
            "TEST-DR2-MABC0-SX5": ("no", "MABC0", "test"),
        },
    ),
    "our JSON lines": (
        "manifest",
        {
            "list/train.jsonl": '{"audio": "../a.wav", "text": "one", "speaker": "ann"}\n',
            "list/dev.jsonl": '{"audio": "../b.wav", "licence": "CC0"}\n',
            "a.wav": 1.1,
            "b.wav": 1.1,
        },
        {"a": ("one", "ann", "train"), "b": (None, None, "validation")},
    ),
    "files": (
        "files",
        {"a/test/x.wav": 1.1, "a/testimony/y.wav": 1.1, "training-day/z.ogg": 1.1},
        {
            "a-test-x": (None, None, "test"),
            "a-testimony-y": (None, None),
            "training-day-z": (None, None),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_layout_is_known_by_its_looks_and_by_its_name(source: Path, name: str) -> None:
    layout, files, expected = CASES[name]
    lay(source, files)
    for options in ((), ("--layout", layout)):
        items, card = read(source, *options)
        found = {
            i: (x.text, x.speaker, x.split)[: len(expected.get(i, "   "))] for i, x in items.items()
        }
        assert found == expected
        assert card.settings["layout"] == layout
        assert not card.skipped
        texts = [row[0] for row in expected.values() if row[0] is not None]
        speakers = {row[1] for row in expected.values()} - {None}
        assert card.counts["recordings"] == len(expected)
        assert card.counts["with_text"] == len(texts)
        assert card.counts["speakers"] == len(speakers)


def test_every_layout_has_a_case_and_stands_in_the_help() -> None:
    assert {layout for layout, _, _ in CASES.values()} == {*LAYOUTS}
    text = call("data", "folder", "--help").text
    for name in LAYOUTS:
        assert name in text


def test_timit_times_its_words_in_samples_at_16_khz(source: Path) -> None:
    items, _ = read(lay(source, CASES["TIMIT"][1]))
    assert items["TRAIN-DR1-FCJF0-SA1"].words == (("she", 0.1, 0.3), ("had", 0.3, 0.5))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {**LJ, "metadata.csv": "LJ001-0001|one|one\nLJ001-0002|two | half|two\n"},
            "metadata.csv:2: column 4 ('two') is one too many",
        ),
        (
            {**LJ, "metadata.csv": "LJ001-0001|one\n\nLJ001-0002|a | b\n"},
            "metadata.csv:3: column 3 ('b') is one too many",
        ),
        (
            {**LJ, "metadata.csv": "LJ001-0001|one|one\nLJ001-0002|two\n"},
            "metadata.csv:2: column 3 of the first line's 3 is missing",
        ),
        ({**LJ, "metadata.csv": "a|b|c|d\n"}, "metadata.csv:1: 4 columns and no header"),
        ({**LJ, "metadata.csv": "LJ001-0001|a\n|b\n"}, "metadata.csv:2: column 1, the name"),
        (
            {"en/clips/a.mp3": 1.1, "en/test.tsv": f"{CV}ann\ta.mp3\tone\t1\nbob\ta.mp3\n"},
            "test.tsv:3: column 3 of the first line's 4 is missing",
        ),
        (
            {"a.wav": 1.1, "metadata.csv": "file_name,text\na.wav,one,two\n"},
            "metadata.csv:2: column 3 ('two') is one too many",
        ),
        ({"a.wav": 1.1, "metadata.csv": 'file_name,text\na.wav,"one\n'}, "metadata.csv:2: not CSV"),
        ({"a.wav": 1.1, "metadata.jsonl": '{"file_name": "a.wav"}\n[]\n'}, "metadata.jsonl:2: not"),
        (
            {"wav.scp": "u1 sph2pipe -f wav a.sph |\n"},
            "wav.scp:1: u1 is no sound file but a pipe or an archive ('sph2pipe -f wav a.sph |')",
        ),
        ({"wav.scp": "u1 raw_wav.1.ark:17\n"}, "u1 is no sound file but a pipe"),
        ({"wav.scp": "u1 a.wav\nu1 b.wav\n"}, "wav.scp:2: u1 has an earlier line"),
        (
            {"wav.scp": "r a.wav\n", "a.wav": 2.0, "segments": "u q 0 1\n"},
            "segments:1: column 2, 'q', is no recording of",
        ),
        (
            {"wav.scp": "r a.wav\n", "a.wav": 2.0, "segments": "u r 1 0.5\n"},
            "segments:1: from 1 to 0.5 is no stretch of time",
        ),
        (
            {"meta.lst": "u|a|p.wav|b\nu|a | b|p.wav|c\n", "p.wav": 1.1},
            "meta.lst:2: column 5 ('c')",
        ),
        ({"A.WAV": 1.1, "A.WRD": "0 10 a\n0 ten b\n"}, "A.WRD:2: '0 ten' is no start and end"),
        ({"x.jsonl": '{"audio_filepath": "a.wav", "duration": "long"}\n'}, "x.jsonl:1: duration"),
    ],
)
def test_what_does_not_fit_is_refused_by_line_and_column(
    source: Path, files: Files, message: str
) -> None:
    assert message in refused(lay(source, files))


@pytest.mark.parametrize("name", ["metadata.jsonl", "list.jsonl", "list.json"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"KEY": "a.wav", "text": "\\ud800"}', ":1: half of a character stands alone"),
        ('{"KEY": "a\\u0000.wav"}', ":1: a text holds a zero character"),
        ('{"KEY": "a.wav"}\n' + "[" * 100_000, ":2: not JSON"),
        ('{"KEY": "a.wav"}\n"b.wav"', ":2: not an object: '\"b.wav\"'"),
        ('{"KEY": "a.wav"}\n\0', "is not text: it holds zero bytes"),
    ],
)
def test_lines_that_hold_no_text_are_refused(
    source: Path, name: str, line: str, message: str
) -> None:
    key = {"metadata.jsonl": "file_name", "list.jsonl": "audio", "list.json": "audio_filepath"}
    lay(source, {"a.wav": 1.1, name: line.replace("KEY", key[name]) + "\n"})
    assert message in refused(source)


@pytest.mark.parametrize(
    "files",
    [
        {"wav.scp": "u a.wav\nv " + "b" * 5000 + "\n"},
        {"a.trans.txt": "a YES\n" + "b" * 5000 + "\n"},
        {"metadata.csv": "file_name,text\na.wav,yes\n" + "b" * 5000 + ",no\n"},
        {"list.jsonl": '{"audio": "a.wav"}\n{"audio": "."}\n'},
        {"list.jsonl": '{"audio": "a.wav"}\n{"audio": "/etc/passwd"}\n'},
        {"list.jsonl": '{"audio": "a.wav"}\n{"audio": ""}\n'},
    ],
)
def test_a_name_that_is_no_file_costs_its_own_recording(source: Path, files: Files) -> None:
    items, card = read(lay(source, {"a.wav": 1.1, **files}))
    assert len(items) == 1
    assert [skipped.failed for skipped in card.skipped] == [True]


def test_stretches_of_long_files_are_recordings(source: Path) -> None:
    lay(source, {"long.wav": 10.0})
    whole, _ = soundfile.read(source / "long.wav", dtype="float32")
    lines = [
        {"audio_filepath": "long.wav", "offset": 1.5, "duration": 2.0, "text": "one"},
        {"audio_filepath": "long.wav", "offset": 6.0, "duration": 3.0, "text": "two"},
        {"audio_filepath": "long.wav", "offset": 9.0, "duration": 3.0, "text": "past the end"},
    ]
    (source / "all.json").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (source / "wav.scp").write_text("r long.wav\n")
    (source / "segments").write_text("u1 r 1.5 3.5\nu2 r 6 -1\n")
    (source / "text").write_text("u1 one\nu2 two\n")
    for options, second in (((), 3.0), (("--layout", "kaldi"), 4.0)):
        items, card = read(source, *options)
        one, two = items.values()
        assert [(x.offset, x.seconds) for x in (one, two)] == [(1.5, 2.0), (6.0, second)]
        assert (one.text, two.text) == ("one", "two")
        assert one.split == two.split == "train"  # both are of one file
        wave, rate = two.read(source)
        np.testing.assert_array_equal(wave, whole[6 * rate : round((6 + second) * rate)])
        again, _ = read(source.parent / "corpus", "--group-by", "auto")
        assert [(x.offset, x.seconds) for x in again.values()] == [(1.5, 2.0), (6.0, second)]
        if not options:
            assert card.skipped[0].reason.endswith("lasts 10 s and has no 9 to 12 s")


def test_stretches_that_begin_together_have_names_of_their_own(source: Path) -> None:
    lay(source, {"long.wav": 10.0})
    lines = [{"audio_filepath": "long.wav", "offset": 1.0, "duration": n} for n in (2, 3, 4, 5)]
    (source / "all.json").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    items, _ = read(source)
    assert sorted(item.seconds for item in items.values()) == [2.0, 3.0, 4.0, 5.0]


def test_where_two_layouts_fit_the_first_is_taken_and_said(source: Path) -> None:
    lay(source, {**CASES["LibriSpeech"][1], "wav.scp": "u1 dev-clean/84/5/84-5-0000.flac\n"})
    said = call("data", "folder", source, "--out", source.parent / "corpus").text
    assert "read as kaldi: wav.scp lists sounds; it looks like librispeech (" in said
    assert "3 sound files are in no list and left out" in said
    items, _ = read(source, "--layout", "librispeech")
    assert len(items) == 4


def test_a_corpus_of_ours_is_its_manifest_alone_which_is_said_once(source: Path) -> None:
    lay(source, {"a.wav": 1.1, "b.wav": 1.1, "manifest.jsonl": '{"audio": "a.wav"}\n'})
    lay(source, {"other.jsonl": '{"audio": "b.wav"}\n'})
    items, card = read(source)
    assert list(items) == ["a"]
    assert card.notes.count("left out beside manifest.jsonl: other.jsonl") == 1


def test_a_list_that_says_a_split_counts_before_one_that_says_none(source: Path) -> None:
    lay(source, {f"wavs/{name}.wav": 1.1 for name in "xyz"})
    lists = {"metadata.csv": "x|1\ny|2\nz|3\n", "metadata_train.csv": "x|1\n"}
    lay(source, {**lists, "metadata_val.csv": "y|2\nx|1\n"})
    items, card = read(source)
    assert {i: x.split for i, x in items.items()} == {"x": "train", "y": "validation", "z": "test"}
    assert card.skipped[0].reason.endswith("x.wav, which is in train, this one in validation")


def test_lists_that_are_not_read_are_named(source: Path) -> None:
    lay(source, {"a.wav": 1.1, "my transcripts.csv": "a|one\n"})
    _, card = read(source)
    assert "nothing is read from my transcripts.csv (to read a list, name it itself)" in card.notes
    items, _ = read(source / "my transcripts.csv")
    assert items["a"].text == "one"


def test_one_list_is_a_source_and_its_name_a_split(source: Path) -> None:
    lay(source, CASES["Common Voice"][1])
    items, _ = read(source / "en" / "test.tsv")
    assert [(i, x.split) for i, x in items.items()] == [("c2", "test")]
    lay(source, {"a.wav": 1.1, "train_list.txt": "a|one\n"})
    items, _ = read(source / "train_list.txt")
    assert [(i, x.split, x.text) for i, x in items.items()] == [("a", "train", "one")]
    lay(source, {"notes.txt": "nothing of the kind\n"})
    assert "no list of a known form" in refused(source / "notes.txt")
