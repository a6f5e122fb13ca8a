import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import records
from pydantic import ValidationError

from calm_bench.core import files
from calm_bench.errors import BenchError, InputError
from calm_bench.store.records import (
    CONCERNS,
    LatencyRecord,
    RowScore,
    ScoreRecord,
    TranscriptRecord,
    TrialRecord,
)
from calm_bench.store.results import Ratings, Value
from calm_bench.store.run_store import RunStore
from calm_bench.types import Estimate, TimedWord, Transcript


def trial(number: int, **changes: object) -> TrialRecord:
    fields: dict[str, object] = {
        "trial_id": f"t{number}",
        "cell_id": "calm@0.8",
        "prompt_id": f"p{number}",
        "seed_index": 0,
        "seed": 7,
        "status": "ok",
        "clip": f"clips/calm@0.8/p{number}.flac",
        "clip_id": f"c{number}",
        "sample_rate": 16000,
        "prompt_seconds": 3.04,
        "prompt_text_source": "given",
        "words": (("the", 0.1, 0.2), ("dog", 0.3, 0.6)),
    }
    return TrialRecord.model_validate(fields | changes)


manifest = partial(
    records.manifest,
    run_id="speech-1234",
    plan_hash="abc",
    weights={"calm-speech-tiny": "aa", "calm-debug": None},
)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "run")


def test_every_kind_of_record_comes_back_equal(store: RunStore) -> None:
    latency = LatencyRecord(
        round=0,
        cell_id="c",
        order=1,
        stage_ns={"head": (5, 6), "total": (9, 9)},
        first_audio_ns=7,
        frame_ns=80_000_000,
        device="cpu",
        dtype="float32",
        threads=2,
    )
    heard = Transcript(
        text="the dog", words=(TimedWord(word="the", start=0.5, end=1.0),), flags=("loop",)
    )
    transcript = TranscriptRecord.of("c0", "asr1", heard)
    score = ScoreRecord(
        metric="wer",
        recipe_id="r",
        cell_id="c",
        trial_id="t0",
        clip_id="c0",
        values={"errors": 1, "words": None},
        note="no words",
    )
    cell_score = RowScore(
        metric="fad",
        recipe_id="r",
        cell_id="c",
        estimates={"fad": Estimate(value=None, reason="12 clips, 16 needed")},
        counts={"n_vectors": 450},
    )
    records = [trial(0), latency, transcript, score, cell_score]
    store.append(*records)
    for record in records:
        assert RunStore(store.root).read(type(record)) == [record]
    assert store.read(TranscriptRecord)[0].transcript == heard


def test_nothing_written_reads_as_nothing_and_touches_no_disk(store: RunStore) -> None:
    assert store.read(TrialRecord) == []
    assert not store.root.exists()


def test_a_later_record_with_the_same_key_replaces_the_earlier(store: RunStore) -> None:
    store.append(trial(0, seed=1), trial(1))
    store.append(trial(0, seed=2))
    assert [(t.trial_id, t.seed) for t in store.read(TrialRecord)] == [("t0", 2), ("t1", 7)]


def test_an_end_that_is_someone_elses_is_not_cut_off(store: RunStore) -> None:
    path = store.path("trials.jsonl")
    path.write_bytes(b"my notes")
    with pytest.raises(InputError, match="ends in what is no line of ours"):
        store.append(trial(1))
    assert path.read_bytes() == b"my notes"


@pytest.mark.parametrize("torn", [b'{"trial_id": "t2", "cel', b"\0" * 200_000, b"{}"])
def test_a_torn_last_line_is_left_out_and_then_overwritten(store: RunStore, torn: bytes) -> None:
    store.append(trial(0), trial(1))
    path = store.root / "trials.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    assert [t.trial_id for t in store.read(TrialRecord)] == ["t0", "t1"]
    store.append(trial(2))
    assert [t.trial_id for t in store.read(TrialRecord)] == ["t0", "t1", "t2"]


def test_a_folder_in_the_place_of_a_file_is_named(store: RunStore) -> None:
    kinds = [TrialRecord, ScoreRecord, RowScore, TranscriptRecord, LatencyRecord]
    reads: dict[str, Callable[[], object]] = {
        kind.file: partial(store.read, kind) for kind in kinds
    }
    reads |= {
        "manifest.json": store.read_manifest,
        "results.json": store.read_results,
        "ratings.json": partial(store.read_ratings, "a run"),
    }
    for name in reads:
        store.path(f"{name}/mine").touch()
    for name, read in reads.items():
        with pytest.raises(InputError, match=f"{name} is a folder, where a file belongs: move"):
            read()
    with pytest.raises(InputError, match=r"manifest\.json is a folder"):
        store.refuse_foreign()
    assert all((store.root / name / "mine").is_file() for name in reads)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_not_said_to_be_missing(store: RunStore) -> None:
    store.write_manifest(manifest())
    store.append(trial(0))
    for name, read in (
        ("manifest.json", store.read_manifest),
        ("trials.jsonl", partial(store.read, TrialRecord)),
    ):
        (store.root / name).chmod(0)
        with pytest.raises(InputError, match=f"cannot read .*{name}: Permission denied"):
            read()


def test_a_damaged_line_in_the_middle_is_named(store: RunStore) -> None:
    store.append(trial(0))
    path = store.root / "trials.jsonl"
    path.write_bytes(b'{"half": \n' + path.read_bytes())
    with pytest.raises(InputError, match=r"trials\.jsonl:1: Invalid JSON"):
        store.read(TrialRecord)


WRITER = """
import sys
from pathlib import Path
sys.path += {places!r}
from test_run_store import trial
from calm_bench.store.run_store import RunStore
store = RunStore(Path({root!r}))
with store.lock():
    for batch in range(10**9):
        store.append(*(trial(4 * batch + k, error="x" * 20_000) for k in range(4)))
        sys.stdout.write(str(4 * batch + 4) + chr(10))
        sys.stdout.flush()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_kill_loses_no_line_that_was_reported_written(store: RunStore) -> None:
    places = [str(place) for place in Path(__file__).parents[:2]]
    code = WRITER.format(places=places, root=str(store.root))
    for _ in range(2):
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            reported = [int(process.stdout.readline()) for _ in range(3)]
            process.send_signal(signal.SIGKILL)
            reported += [int(line) for line in process.stdout]
        numbers = [int(t.trial_id[1:]) for t in store.read(TrialRecord)]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= reported[-1]
    with store.lock():  # the kill gave it free
        store.append(trial(10**6))
    assert store.read(TrialRecord)[-1].trial_id == "t1000000"


def test_two_writers_are_one_too_many(store: RunStore) -> None:
    with (
        store.lock(),
        pytest.raises(BenchError, match=rf"another process \(pid {os.getpid()}\)"),
        RunStore(store.root).lock(),
    ):
        pass
    with store.lock():
        pass


def fill_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """From now on the disk takes `after` more bytes, then says that it is full."""
    left = after

    def write_all(file: object, data: bytes) -> None:
        nonlocal left
        taken, left = data[:left], max(0, left - len(data))
        file.write(taken)  # type: ignore[attr-defined]
        if len(taken) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_write_all", write_all)


def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.append(trial(0))
    store.write_manifest(manifest())
    before = {p.name: p.read_bytes() for p in store.root.iterdir()}
    fill_disk(monkeypatch, after=100)
    with pytest.raises(InputError, match="the disk is full") as error:
        store.append(trial(1))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="the disk is full"):
        store.write_manifest(manifest(status="finished"))
    assert {p.name: p.read_bytes() for p in store.root.iterdir()} == before
    monkeypatch.undo()
    store.append(trial(1))
    assert len(store.read(TrialRecord)) == 2


def test_a_short_write_is_continued(store: RunStore) -> None:
    class Slow:
        data = b""

        def write(self, data: bytes) -> int:
            self.data += data[:3]
            return min(3, len(data))

    slow = Slow()
    files._write_all(slow, b"a long line\n")  # type: ignore[arg-type]
    assert slow.data == b"a long line\n"


def test_a_run_goes_on_where_it_was(store: RunStore) -> None:
    first = store.begin(manifest(created="then"))
    store.write_manifest(first.model_copy(update={"status": "partial"}))
    again = store.begin(manifest(created="now", command=("calm-bench", "run")))
    assert (again.created, again.status) == ("then", "running")
    assert store.read_manifest() == again


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"environment": {"device": "cuda", "torch": "2.13.0"}}, "device cpu, this is device cuda"),
        ({"environment": {"device": "cpu", "torch": "2.11.0"}}, "torch 2.13.0, this is torch 2.11"),
        ({"plan_hash": "xyz"}, "planned with other options"),
        ({"options": {"spec": {"latency": {"rounds": 6}}}}, "timed over other frames or rounds"),
        ({"version": 2}, "holds speech version 1, not speech version 2"),
        ({"weights": {"calm-speech-tiny": "bb"}}, r"made \(calm-speech-tiny aa, now bb\)"),
    ],
)
def test_a_run_is_not_mixed_with_another(
    store: RunStore, change: dict[str, object], said: str
) -> None:
    first = manifest(options={"spec": {"latency": {"rounds": 5}}})
    store.begin(first)
    with pytest.raises(InputError, match=said):
        store.begin(manifest(**change))
    assert store.read_manifest() == first


def test_times_are_of_the_machine_and_command_that_took_them(store: RunStore) -> None:
    told = {"device": "cpu", "torch": "2.13.0"}
    clips, later = dict.fromkeys(CONCERNS, "a"), dict.fromkeys(CONCERNS, "b")
    store.begin(manifest(environment={**told, "device_name": "busy", "code": clips}))
    spec = {"spec": {"latency": {"rounds": 5}}}
    quiet = {**told, "device_name": "quiet", "code": later}
    begun = store.begin(manifest(environment=quiet, options=spec, command=("timed",)))
    assert (begun.environment["device_name"], begun.command) == ("quiet", ("timed",))
    assert begun.environment["clips_made_on"] == "busy"
    assert begun.code == {"clips": "a", "times": "b", "scores": "b"}
    assert store.read_manifest().latency == {"rounds": 5}  # should timing be killed now
    with pytest.raises(InputError, match="timed over other frames or rounds"):
        store.begin(manifest(options={"spec": {"latency": {"rounds": 6}}}))


def test_a_fresh_run_of_other_weights_removes_nothing(store: RunStore) -> None:
    store.begin(manifest())
    other = {"calm-speech-tiny": "bb", "new-model": "cc"}
    with (
        pytest.raises(InputError, match="which no command can make again") as caught,
        store.opened("speech-1234", other, fresh=True),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert store.read_manifest() == manifest()


def test_a_fresh_run_removes_files_of_our_names_alone(store: RunStore) -> None:
    store.begin(manifest())
    store.append(trial(0))
    ours = ("results.json", "tables/speech.md", "clips/a/p.0.flac", "page/index.html")
    theirs = ("ratings.json", "votes/mine.jsonl", "package.json", "notes.jsonl", "clips/my.wav")
    theirs += ("clips/a/mine.flac", "plots/mine.png", "tables/mine.csv", "page/prompts/voice.flac")
    for name in (*ours, *theirs):
        store.path(name).write_text("{}")
    ratings = Ratings(run_id="speech-1234")
    store.write_json("ratings.json", ratings)
    with store.opened("speech-1234", {"calm-speech-tiny": "aa"}, fresh=True):
        found = {p.relative_to(store.root).as_posix() for p in store.root.rglob("*") if p.is_file()}
        assert found == {".lock", "manifest.json", *theirs}
        assert store.begin(manifest(plan_hash="new"), fresh=True).plan_hash == "new"
    assert store.read_ratings("speech-1234") == ratings
    with (
        pytest.raises(InputError, match=r"ratings\.json speaks of the run speech-1234"),
        store.opened("other-1", {"calm-speech-tiny": "aa"}, fresh=True),
    ):
        pass


def test_a_run_that_could_not_begin_begins_in_the_same_folder(store: RunStore) -> None:
    with pytest.raises(InputError, match="is full"), store.opened("r", {}, fresh=False):
        raise InputError("the disk is full")
    with store.opened("r", {}, fresh=False):
        store.begin(manifest())
    with pytest.raises(InputError, match="is full"), store.opened("r", {}, fresh=False):
        raise InputError("the disk is full")
    assert "the disk is full" in store.path("run.log").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_log_that_takes_nothing_hides_no_error(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store.begin(manifest())
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr("logging.FileHandler._open", lambda _: os.fdopen(full, "w"))
    with pytest.raises(InputError, match="what went wrong"), store.lock():
        raise InputError("what went wrong")
    assert capfd.readouterr().err == ""
    monkeypatch.undo()
    store.path("run.log").mkdir()
    with pytest.raises(InputError, match="what went wrong"), store.lock():
        raise InputError("what went wrong")


@pytest.mark.parametrize("text", ["my notes\n", "1234\nand more"])
def test_a_lock_file_of_someone_is_left_alone(store: RunStore, text: str) -> None:
    store.path(".lock").write_text(text)
    with pytest.raises(InputError, match="no lock of ours"), store.lock():
        pass
    assert store.path(".lock").read_text() == text


def test_results_of_another_run_are_not_shown_as_those_of_this_one(store: RunStore) -> None:
    store.begin(manifest())
    store.write_results(records.results(run_id="speech-99"))
    with pytest.raises(InputError, match=r"results\.json speaks of the run speech-99, not of"):
        store.read_results()


@pytest.mark.parametrize("text", ["{}", '{"run_id": "a", "plan_hash": "b"}', "[" * 9999, "x"])
def test_a_folder_with_another_manifest_is_someones(store: RunStore, text: str) -> None:
    store.path("manifest.json").write_text(text)
    assert not store.holds_run
    with (
        pytest.raises(InputError, match=r"manifest\.json"),
        store.opened("speech-1234", {}, fresh=True),
    ):
        pass
    assert [path.name for path in store.root.iterdir()] == ["manifest.json"]


def test_what_a_killed_process_had_begun_is_swept_at_the_next_start(store: RunStore) -> None:
    begun = store.path(".manifest.json.999999999-0123abcd-0.unfinished")
    begun.write_text("{")
    with store.opened("speech-1234", {}, fresh=False):
        store.begin(manifest())
    assert not begun.exists()
    assert store.holds_run


def test_a_line_and_a_file_that_were_changed_are_refused(store: RunStore) -> None:
    store.append(trial(0))
    store.write_manifest(manifest())
    for name, read in (
        ("trials.jsonl", lambda: store.read(TrialRecord)),
        ("manifest.json", store.read_manifest),
    ):
        path = store.root / name
        path.write_text(path.read_text().replace("3.04", "3.05").replace('"abc"', '"abd"'))
        with pytest.raises(InputError, match=rf"{name}.*checksum does not fit"):
            read()


def test_records_of_older_versions_have_no_checksums(store: RunStore) -> None:
    store.path("trials.jsonl").write_text(trial(0).model_dump_json() + "\n")
    store.path("manifest.json").write_text(manifest().model_dump_json())
    assert store.read(TrialRecord) == [trial(0)]
    assert store.read_manifest() == manifest()


def test_files_have_the_users_ordinary_permissions(store: RunStore) -> None:
    before = os.umask(0o027)
    try:
        store.write_manifest(manifest())
    finally:
        os.umask(before)
    assert (store.root / "manifest.json").stat().st_mode & 0o777 == 0o640


def test_a_manifest_must_name_device_and_torch() -> None:
    with pytest.raises(ValidationError, match="environment lacks torch"):
        manifest(environment={"device": "cpu"})


def test_results_of_another_schema_are_refused(store: RunStore) -> None:
    results = records.results()
    store.write_results(results)
    assert store.read_results() == results
    path = store.root / "results.json"
    data = json.loads(path.read_text()) | {"schema_version": 2}
    del data["check"]
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match="schema_version"):
        store.read_results()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..\\x", "C:/x", ""])
def test_records_never_point_outside(name: str) -> None:
    with pytest.raises(ValidationError, match="not a path inside"):
        trial(0, clip=name)


def test_files_are_never_written_outside(store: RunStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="points outside"):
        store.write_text("../evil.txt", "x")
    store.root.mkdir()
    (store.root / "clips").symlink_to(tmp_path)
    with pytest.raises(InputError, match="points outside"):
        store.path("clips/x.flac")


def test_a_missing_value_needs_its_reason_and_a_number_must_be_finite() -> None:
    common = {"cell_id": "c", "system": "CALM", "metric": "wer"}
    with pytest.raises(ValidationError, match="needs its reason"):
        Value(**common, value=None)
    with pytest.raises(ValidationError, match="finite number"):
        Value(**common, value=float("nan"), n=3)


def test_a_trial_has_a_clip_or_an_error() -> None:
    with pytest.raises(ValidationError, match="needs clip"):
        trial(0, clip_id=None)
    with pytest.raises(ValidationError, match="needs its error"):
        trial(0, status="failed")


def test_scoring_again_changes_the_code_of_the_scores_alone() -> None:
    environment = {"device": "cpu", "torch": "2", "code": "old"}
    again = manifest(environment=environment).scored_by({"scores": "new", "clips": "newer"})
    assert again.code == {"clips": "old", "times": "old", "scores": "new"}
    assert again.environment["torch"] == "2"
