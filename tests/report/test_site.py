"""One page of several runs, by the command: whole, small, the same each time, and nothing else."""

import re
import shutil
from base64 import b64decode
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from clips import contents
from commands import Said, call
from commands import refused as refused_line

from calm_bench.core.audio import probe_audio, read_audio, write_flac
from calm_bench.report.build import build_report, build_site
from calm_bench.report.players import RowBuilder
from calm_bench.store.records import TrialRecord
from calm_bench.store.run_store import RunStore


def report(*words: object, code: int = 0) -> Said:
    return call("report", *words, code=code)


def refused(*words: object) -> str:
    return refused_line("report", *words)


def sources(text: str) -> set[str]:
    return {unquote(name) for name in re.findall(r'(?:src|data-image)="([^"]+)"', text)}


def prompts(text: str) -> list[str]:
    return re.findall(r'<tr data-prompt="([^"]+)"', text)


@pytest.fixture(scope="module")
def runs(run_store: RunStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of two runs whose own reports are written."""
    music = RunStore(tmp_path_factory.mktemp("runs") / "music-4567cdef")
    shutil.copytree(run_store.root, music.root)
    renamed = {"run_id": "music-4567cdef", "benchmark": "music"}
    music.write_results(run_store.read_results().model_copy(update=renamed))
    changes = renamed | {"options": {"spec": {"description": "3 s of a <work>, continued"}}}
    music.write_manifest(music.read_manifest().model_copy(update=changes))
    for store in (run_store, music):
        build_report(store.root)
    return run_store.root, music.root


@pytest.fixture(scope="module")
def site(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of both, the second named first."""
    root = tmp_path_factory.mktemp("published") / "site"
    before = [contents(run) for run in runs]
    result = report(*reversed(runs), "--out", root, "--clips", "2")
    assert f"listen: {root / 'index.html'}" in result.out
    assert [contents(run) for run in runs] == before
    return root


def test_the_page_needs_its_folder_and_nothing_else(site: Path) -> None:
    text = (site / "index.html").read_text()
    assert "../" not in text
    assert "http" not in text
    names = sources(text)
    assert names == contents(site).keys() - {"index.html"}
    # Two rows of seven clips with a prompt, each clip with its spectrogram, and a plot a run.
    assert sum(name.endswith(".opus") for name in names) == 2 * 2 * (7 + 1)
    assert sum(name.endswith(".svg") for name in names) == 2


def test_runs_stand_in_the_order_in_which_they_are_named(site: Path) -> None:
    text = (site / "index.html").read_text()
    assert re.findall(r'<a href="#(run-\d)">(.*?)</a>', text) == [
        ("run-1", "music"),
        ("run-2", "speech"),
    ]
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["music", "speech"]
    assert text.count("<p>3 s of a &lt;work&gt;, continued.</p>") == 1
    assert "2 of 3 rows, spread over the run" in text


def test_tables_and_plots_are_those_of_the_run(site: Path, runs: tuple[Path, Path]) -> None:
    table = re.compile(r'<table class="numbers">.*?</table>', re.DOTALL)
    own = table.findall((runs[0] / "page/index.html").read_text())
    assert len(own) == 4
    section = (site / "index.html").read_text().split('<section id="run-2">')[1]
    assert table.findall(section) == own
    plots = {path.name: path.read_bytes() for path in (runs[0] / "plots").glob("*.svg")}
    assert {path.name: path.read_bytes() for path in (site / "run-2/plots").iterdir()} == plots


def test_clips_are_whole_small_and_said_to_be_copies(site: Path, runs: tuple[Path, Path]) -> None:
    trials = [t for t in RunStore(runs[0]).read(TrialRecord) if t.clip]
    copies = {t: site / f"run-2/clips/{t.clip_id}.opus" for t in trials}
    copies = {trial: copy for trial, copy in copies.items() if copy.is_file()}
    assert len(copies) == 2 * 7
    for trial, copy in copies.items():
        wave, rate = read_audio(copy)
        assert len(wave) / rate == pytest.approx(probe_audio(runs[0] / trial.clip).seconds)
    originals = sum((runs[0] / trial.clip).stat().st_size for trial in copies)
    assert sum(copy.stat().st_size for copy in copies.values()) < 0.6 * originals
    text = (site / "index.html").read_text()
    assert "Opus, which is lossy" in text
    assert "not normalised, and every score was computed on the original FLAC" in text


def test_a_second_page_is_the_same_and_leaves_nothing_of_the_first(
    site: Path, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "site"
    out.mkdir()
    (out / "CNAME").write_text("listen.example")
    report(*runs, "--out", out, "--clips", "3")
    report(*reversed(runs), "--out", out, "--clips", "2")
    assert contents(out) == contents(site) | {"CNAME": b"listen.example"}


def test_one_file_holds_what_the_folder_does(
    site: Path, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "made" / "page.html"
    for _ in range(2):
        result = report(*reversed(runs), "--out", out, "--clips", "2")
        assert f"listen: {out} ({out.stat().st_size / 1e6:.1f} MB" in result.out
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    held = re.findall(r'(?:src|data-image)="data:([a-z/+]+);base64,([^"]+)"', out.read_text())
    assert {kind for kind, _ in held} == {"audio/ogg", "image/png", "image/svg+xml"}
    whole = contents(site)
    assert {b64decode(data) for _, data in held} == set(whole.values()) - {whole["index.html"]}
    plain = re.sub(r'(src|data-image)="[^"]+"', "", out.read_text())
    assert plain == re.sub(r'(src|data-image)="[^"]+"', "", (site / "index.html").read_text())


def test_two_runs_of_one_benchmark_are_told_apart(
    runs: tuple[Path, Path], copied: RunStore, tmp_path: Path
) -> None:
    renamed = {"run_id": "speech-2"}
    copied.write_results(copied.read_results().model_copy(update=renamed))
    copied.write_manifest(copied.read_manifest().model_copy(update=renamed))
    report(runs[0], copied.root, "--out", tmp_path / "site", "--clips", "1")
    text = (tmp_path / "site/index.html").read_text()
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["speech-0123abcd", "speech-2"]


def test_rows_are_spread_over_those_that_can_be_heard(emptied: RunStore, tmp_path: Path) -> None:
    trial = next(trial for trial in emptied.read(TrialRecord) if trial.clip)
    (emptied.root / "trials.jsonl").unlink()
    write_flac(emptied.path("clips/one.flac"), np.zeros(48_000, dtype=np.float32), 16_000)
    shown = {}
    for i in range(10):
        made = {"prompt_id": f"p{i}", "trial_id": f"{trial.cell_id}/{i}"}
        path = {"clip": "clips/lost.flac" if i < 2 else "clips/one.flac"}
        emptied.append(trial.model_copy(update=made | path))
    for n in (4, 9):
        report(emptied.root, "--out", tmp_path / "site", "--clips", n)
        shown[n] = prompts((tmp_path / "site/index.html").read_text())
    assert shown[4] == ["p2", "p4", "p6", "p8"]
    assert shown[9] == ["p0", *(f"p{i}" for i in range(2, 10))]


def test_a_run_without_clips_says_what_makes_them(emptied: RunStore, tmp_path: Path) -> None:
    out = tmp_path / "site"
    message = refused(emptied.root, "--out", out)
    assert "none of its 20 clips are on disk" in message
    assert "calm-bench run speech --temps 0.8 1.0" in message
    (emptied.root / "trials.jsonl").unlink()
    assert "made no clips" in refused(emptied.root, "--out", out)
    assert not out.exists()


def test_a_clip_that_is_lost_shows_its_reason(copied: RunStore, tmp_path: Path) -> None:
    (copied.root / "clips/calm-t0.8/0 #1.flac").unlink()
    report(copied.root, "--out", tmp_path / "site")
    text = (tmp_path / "site/index.html").read_text()
    assert "the file clips/calm-t0.8/0 #1.flac is missing" in text
    assert len(prompts(text)) == 3


def test_someone_elses_folder_is_left_alone(runs: tuple[Path, Path], tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "index.html").write_text("my page")
    assert "is not ours" in refused(runs[0], "--out", home)
    assert (home / "index.html").read_text() == "my page"
    assert "is not ours" in refused(runs[0], "--out", home / "index.html")
    (home / "notes").write_text("mine")
    assert "is a file" in refused(runs[0], "--out", home / "notes")
    (tmp_path / "other/run-1").mkdir(parents=True)
    assert "is not ours" in refused(runs[0], "--out", tmp_path / "other")


def test_prompts_beyond_a_thousand_are_counted_and_go_with_their_page(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = RowBuilder.row
    with monkeypatch.context() as many:
        many.setattr(RowBuilder, "row", lambda self, index, *pair: row(self, 999 + index, *pair))
        n_bytes = build_site([runs[0]], tmp_path / "site", 2)
    names = {path.name for path in (tmp_path / "site/run-1/prompts").iterdir()}
    assert names == {"999.opus", "1000.opus"}
    assert n_bytes == sum(map(len, contents(tmp_path / "site").values()))
    build_site([runs[0]], tmp_path / "site", 1)
    assert {path.name for path in (tmp_path / "site/run-1/prompts").iterdir()} == {"000.opus"}


@pytest.mark.usefixtures("runs")  # whose pages are built before one is copied
def test_a_run_that_begins_anew_has_no_prompts_of_its_old_page(copied: RunStore) -> None:
    kept = copied.root / "page/prompts"
    for name in ("1000.flac", "12345.flac", "12 bars.flac"):
        (kept / name).touch()
    copied.clear()
    assert [path.name for path in kept.iterdir()] == ["12 bars.flac"]


def test_someones_files_beside_an_earlier_page_stay(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    report(*runs, "--out", home)
    theirs = [home / name for name in ("run-20240101/weights.bin", "run-2/clips/my song.opus")]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    report(runs[0], "--out", home)
    assert [path.read_text() for path in theirs] == ["mine", "mine"]
    assert sorted(contents(home / "run-2")) == ["clips/my song.opus"]


def test_a_page_is_neither_in_a_run_nor_around_it(runs: tuple[Path, Path]) -> None:
    before = contents(runs[0])
    for out in (runs[0], runs[0] / "page", runs[0].parent):
        assert "lie in each other" in refused(runs[0], "--out", out)
    assert "is named twice" in refused(runs[0], runs[0], "--out", runs[0].parent / "site")
    assert contents(runs[0]) == before
