import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from clips import contents

from calm_bench.core.audio import read_audio
from calm_bench.errors import InputError
from calm_bench.numbers.speed import speed_rows
from calm_bench.report import page
from calm_bench.report.build import build_report, build_site
from calm_bench.report.columns import shown_columns
from calm_bench.report.export import export
from calm_bench.report.looks import looks
from calm_bench.report.players import ClipLookup, Word, mark_differences
from calm_bench.report.plots import by_row, by_stage, by_temperature, caption_of, render_plots
from calm_bench.store.records import (
    LatencyRecord,
    Record,
    TrialRecord,
)
from calm_bench.store.results import Results
from calm_bench.store.run_store import RunStore


class Elements(HTMLParser):
    """Start tags with their attributes, and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def built(run_store: RunStore) -> RunStore:
    build_report(run_store.root)
    return run_store


@pytest.fixture(scope="module")
def html(built: RunStore) -> str:
    return (built.root / "page/index.html").read_text()


def page_of(store: RunStore) -> str:
    page.write_page(page.Section(clips=ClipLookup(store), results=store.read_results()))
    return (store.root / "page/index.html").read_text()


def test_whatever_is_made_of_a_run_reads_its_records_once(
    copied: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, read, seen = copied.root, RunStore.read, Counter[str]()

    def counted(store: RunStore, kind: type[Record]) -> list[Record]:
        seen[kind.file] += 1
        return read(store, kind)

    monkeypatch.setattr(RunStore, "read", counted)
    once = {"trials.jsonl": 1, "scores.jsonl": 1}
    for make in (
        lambda: build_report(root),
        lambda: build_site([root], tmp_path / "site", 2),
        lambda: export(root, "audiofolder", tmp_path / "out"),
    ):
        seen.clear()
        make()
        assert {name: seen[name] for name in once} == once
        assert set(seen.values()) == {1}


@pytest.mark.usefixtures("drawn")
def test_the_same_records_give_the_same_bytes(built: RunStore) -> None:
    build_report(built.root)
    before = contents(built.root)
    assert {
        "tables/speech.md",
        "tables/speech.csv",
        "tables/speech.tex",
        "plots/quality_vs_temperature.png",
        "plots/quality_vs_temperature.svg",
        "page/index.html",
        "page/prompts/000.flac",
    } <= before.keys()
    build_report(built.root)
    assert contents(built.root) == before


def test_tables_come_with_differences_counts_and_recipes(built: RunStore) -> None:
    text = (built.root / "tables/speech.md").read_text()
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert titles == [
        "### speech (version 1)",
        "### What temperature changes",
        "### Against the baseline",
        "### Counts",
        "### Recipes",
    ]
    recipes = json.loads(text.split("```json")[1].split("```")[0])
    assert recipes["wer-recipe"] == {"metric": "wer", "version": 1}


@pytest.mark.usefixtures("drawn")
def test_plots_carry_no_date_and_survive_hostile_labels(results: Results) -> None:
    cells = tuple(c.model_copy(update={"label": c.label + " $x_{"}) for c in results.cells)
    plots = render_plots(results.model_copy(update={"cells": cells}))
    assert set(plots) == {f"quality_vs_temperature.{kind}" for kind in ("png", "svg")}
    assert min(map(len, plots.values())) > 5000
    svg = plots["quality_vs_temperature.svg"].decode()
    assert "<dc:date>" not in svg


def test_a_caption_says_how_many_clips_and_what_temperature_is(results: Results) -> None:
    def caption(shown: Results) -> str:
        return caption_of(shown, shown_columns(shown), {cell.cell_id for cell in shown.cells})

    assert caption(results).splitlines() == [
        "speech-0123abcd: bars: 95 % intervals over prompts, n = 2 to 3 clips",
        "temperature is the softmax divisor of RQ 8 & <i>codebooks</i> and the noise variance of "
        "CALM 1 step, which are not comparable",
    ]
    token = results.model_copy(update={"cells": results.cells[:5]})
    assert caption(token).splitlines() == [
        "speech-0123abcd: bars: 95 % intervals over prompts, n = 3 clips",
        "temperature is the softmax divisor",
    ]


def cold(results: Results, name: str, *without: str) -> Results:
    """These results, had one of the systems no temperature, and without some rows."""
    nothing = {"temperature": None, "text_temperature": None, "temperature_kind": "none"}
    cells = tuple(
        row.model_copy(update=nothing if row.cell_id == name else {})
        for row in results.cells
        if row.cell_id not in without
    )
    return results.model_copy(update={"cells": cells, "differences": ()})


def test_what_has_no_temperature_is_no_second_one(results: Results) -> None:
    alone = cold(results, "rq-t0.8", "rq-t1", "calm-t1")
    assert by_temperature(alone) == []
    drawn = {len(panel.lines) for panel in by_row(alone)}
    assert drawn == {4, 5}  # silence has no PPX
    panels = by_temperature(cold(results, "rq-t0.8", "rq-t1"))
    assert [panel.levels["RQ 8 & <i>codebooks</i>"] for panel in panels] == [88.1, 33.1, 18.8, 2.75]
    assert all("not drawn" not in panel.caption for panel in panels)


def test_without_values_there_are_no_plots(results: Results) -> None:
    assert render_plots(results.model_copy(update={"rows": ()})) == {}


def timed(run_store: RunStore, *more: LatencyRecord, **update: str) -> Results:
    """The run with what its times come to, its rows so updated."""
    results = run_store.read_results()
    rows = tuple(row.model_copy(update=update) for row in results.cells)
    speed = speed_rows(rows, [*run_store.read(LatencyRecord), *more])
    known = [
        value for value in results.rows if value.metric not in {v.metric for v in speed.values}
    ]
    return results.model_copy(update={"cells": rows, "rows": (*known, *speed.values)})


def test_stages_sum_to_the_time_of_a_second_of_audio(run_store: RunStore) -> None:
    (panel,) = by_stage(timed(run_store))
    assert list(panel.stages) == ["RQ 8 & <i>codebooks</i>", "CALM 1 step"]  # temperatures share it
    rq, calm = panel.stages.values()
    expected = {"head": 5.0, "codec": 37.5}
    assert {part: calm[part] for part in expected} == pytest.approx(expected)
    for name, parts in panel.stages.items():
        low, high = panel.ends[name] or (0.0, 0.0)
        assert low <= sum(parts.values()) <= high
    assert sum(rq.values()) == pytest.approx(12.5 * (9.2 + 5 + 3 + 0.05), abs=1)


def test_a_system_that_was_not_timed_is_named_below(run_store: RunStore) -> None:
    whole = timed(run_store)
    (panel,) = by_stage(whole)
    assert "not drawn" not in panel.caption
    rows = tuple(value for value in whole.rows if not value.cell_id.startswith("calm"))
    (panel,) = by_stage(whole.model_copy(update={"rows": rows}))
    assert panel.caption.endswith("value: CALM 1 step, temp 0.8; CALM 1 step, temp 1.0")


def test_every_source_exists_and_is_relative(built: RunStore, html: str) -> None:
    elements = Elements(html)
    sources = [a["src"] or "" for a in elements.all("audio") + elements.all("img")]
    assert len(sources) == 3 + 3 * 7 - 1 + 1
    for source in sources:
        assert "://" not in source
        assert not source.startswith("/")
        assert (built.root / "page" / unquote(source)).is_file()


def test_the_page_loads_nothing_before_it_is_asked(html: str) -> None:
    elements = Elements(html)
    assert all(a["preload"] == "none" for a in elements.all("audio"))
    assert elements.all("link") == []
    assert all("src" not in a for a in elements.all("script"))
    assert "http" not in html


def test_nothing_written_by_others_becomes_markup(html: str) -> None:
    elements = Elements(html)
    assert elements.all("i") == elements.all("b") == []
    assert "RQ 8 & <i>codebooks</i>" in elements.text
    assert "odd <&\"' id" in elements.text
    assert "failed: RuntimeError: <out of memory>" in elements.text


def test_columns_are_systems_then_references_headed_by_their_scores(html: str) -> None:
    head = html[html.index("<thead>") : html.index("</thead>")]
    names = re.findall(r'<th scope="col">(.*?)<small>(.*?)</small>', head)
    calm = looks({"CALM": "calm-speech-tiny"})["CALM"]
    mark = f'<span class="look" style="color:{calm.color}" aria-hidden="true">{calm.sign}</span>'
    assert [name for name, _ in names][2:] == [
        f"{mark} CALM 1 step",
        f"{mark} CALM 1 step",
        "Reference",
        "VAE round trip",
        "Silence",
    ]
    assert names[0][1] == "temp 0.8 · softmax divisor · baseline"
    assert names[2][1] == "temp 0.8 · noise variance"
    assert "16.1 [15.1, 18.0]" in head
    assert 'title="every transcript is empty"' in head


def test_counts_stand_with_how_the_numbers_were_made(html: str) -> None:
    before, after = html.split("How the numbers were made")
    assert "Counts" not in before
    assert "<summary>Counts: " in after


def test_wrong_words_are_marked_and_scores_stand_below(html: str) -> None:
    assert '<span class="differs">frog</span>' in html
    assert '<span class="differs">dog</span>' in html  # among the words that were meant
    assert '<span class="differs">time</span>' not in html
    assert '<span class="given">Once</span>' in html
    assert "<dt>WER (%)</dt> <dd>28.6</dd>" in html  # 2 errors in 4 + 3 words
    assert "text transcribed, not given" in html


def test_every_clip_has_its_outline_its_mark_and_a_spectrogram(built: RunStore, html: str) -> None:
    elements = Elements(html)
    marks = [a for a in elements.all("span") if a.get("class") == "end"]
    assert len(marks) == 3 * 7 - 1
    assert {a["style"] for a in marks} == {"left:52.00%"}  # 1.04 of 2 s
    images = [a["data-image"] or "" for a in elements.all("button") if "data-image" in a]
    assert len(images) == 3 * 7 - 1
    for image in images:
        assert (built.root / "page" / image).read_bytes().startswith(b"\x89PNG")


def test_rows_can_be_sorted_by_what_is_known_of_single_clips(html: str) -> None:
    elements = Elements(html)
    assert "WER (%)" in html[html.index('class="by"') : html.index('class="of"')]
    assert "VERT" not in html[html.index('class="by"') : html.index('class="of"')]
    values = [(a["data-values"] or "").count(";") for a in elements.all("td") if "data-values" in a]
    assert sorted(values) == [0] + [2] * 20  # the clip that failed has none


def test_a_run_without_clips_of_its_own_has_no_players(built: RunStore, tmp_path: Path) -> None:
    plain = RunStore(tmp_path / "plain")
    plain.write_manifest(built.read_manifest())
    section = page.Section(clips=ClipLookup(plain), results=built.read_results())
    page.write_site([section], plain.root, max_rows=2)
    elements = Elements((plain.root / "index.html").read_text())
    assert not [a for a in elements.all("div") if a.get("class") in ("players", "tools")]


def test_the_prompt_is_cut_where_the_continuation_starts(built: RunStore) -> None:
    wave, rate = read_audio(built.root / "page/prompts/001.flac")
    clip, _ = read_audio(built.root / "clips/reference/1 #1.flac")
    assert len(wave) == round(1.04 * rate)
    assert (wave == clip[: len(wave)]).all()


def test_a_long_run_shows_its_first_rows_and_says_so(
    emptied: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_ROWS", 2)
    text = page_of(emptied)
    assert "The first 2 of 3 rows" in text
    assert ">cat<" not in text


def test_alignment_marks_least_edits_outside_of_the_prompt() -> None:
    def at(*words: str) -> list[tuple[str, float, float]]:
        return [(word, float(i), i + 0.5) for i, word in enumerate(words)]

    meant, heard = mark_differences(
        at("One", "two", "Three,", "four", "five", "seven"),
        at("won", "two", "three", "–", "five", "seven", "six"),
        1.0,
    )
    assert heard == [
        Word(text="won", given=True),
        Word(text="two"),
        Word(text="three"),
        Word(text="–"),
        Word(text="five"),
        Word(text="seven"),
        Word(text="six", differs=True),
    ]
    assert [word.text for word in meant if word.differs] == ["four"]


def test_nothing_is_marked_where_nothing_was_meant() -> None:
    assert mark_differences(None, [("la", 1.0, 1.2)], 0.0) == ([], [Word(text="la")])
    assert mark_differences([("la", 1.0, 1.2)], [], 0.0) == ([Word(text="la", differs=True)], [])


def test_lookup_finds_what_belongs_to_a_clip(run_store: RunStore) -> None:
    lookup = ClipLookup(run_store)
    assert lookup.pairs() == [("dog", 0), ("odd <&\"' id", 0), ("cat", 0)]
    trial = lookup.trial("silence", "dog", 0)
    assert trial is not None
    transcript = lookup.transcript(trial)
    assert transcript is not None
    assert transcript.flags == ("silent",)
    columns = {s.column.name: s for s in shown_columns(run_store.read_results())}
    assert lookup.score(trial, columns["ppx_geo"]) == (None, "empty transcript")
    assert lookup.score(trial, columns["vert"]) == (None, None)
    assert lookup.trial("silence", "dog", 1) is None


def test_a_run_that_was_cut_short_still_has_a_page(emptied: RunStore) -> None:
    emptied.write_manifest(emptied.read_manifest().model_copy(update={"status": "partial"}))
    trials = emptied.read(TrialRecord)
    (emptied.root / "trials.jsonl").unlink()
    emptied.append(*trials[:4])
    text = Elements(page_of(emptied)).text
    assert "partial" in text
    assert "not generated yet" in text
    assert "the file clips/reference/0 #1.flac is missing" in text
    assert "no clip holds it" in text


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no results\.json"):
        build_report(tmp_path)


def test_a_clip_outside_of_the_run_is_refused(emptied: RunStore, run_store: RunStore) -> None:
    (emptied.root / "clips").symlink_to(run_store.root / "clips")
    with pytest.raises(InputError, match="points outside"):
        page_of(emptied)


def test_only_a_page_with_words_explains_them(emptied: RunStore, html: str) -> None:
    explained = "what a speech recogniser heard"
    assert explained in html
    (emptied.root / "transcripts.jsonl").unlink()
    wordless = [t.model_copy(update={"words": None}) for t in emptied.read(TrialRecord)]
    emptied.append(*wordless)
    assert explained not in page_of(emptied)
