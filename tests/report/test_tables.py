import csv
import io
import re

import pytest
from rich.console import Console
from rows import with_values

from calm_bench.report.columns import (
    MARKED,
    decimals_of,
    heading,
    interval_text,
    plain_number,
    shown_columns,
    signed,
)
from calm_bench.report.formats import print_table, to_csv, to_latex, to_markdown
from calm_bench.report.tables import (
    Table,
    Text,
    counts_table,
    difference_tables,
    held_out_table,
    main_table,
)
from calm_bench.store.records import row_title
from calm_bench.store.results import Difference, Pooled, Results, TrialCount, Value
from calm_bench.types import Column


def texts(table: Table) -> list[list[str]]:
    return [[text.text for text in row] for row in table.rows]


def named(table: Table, row: int) -> dict[str, Text]:
    headings = (text.text for text in table.headings)
    return dict(zip(headings, table.rows[row], strict=True))


def printed(results: Results, width: int | None) -> str:
    out = io.StringIO()
    terminal = width is not None
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None)
    print_table(results, console)
    return out.getvalue()


def row(**changes: object) -> Value:
    fields = {"cell_id": "c", "system": "s", "metric": "m", "value": 10.0, "n": 3}
    return Value.model_validate(fields | changes)


def test_the_table_says_all_that_the_speech_benchmark_promises(results: Results) -> None:
    table = main_table(results)
    assert [text.text for text in table.headings] == [
        *("System", "temp", "temp is", "text temp"),
        *("overall × ↑", "head × ↑", "time in head (%) ↓"),
        *("PPX ↓", "VERT ↓", "WER (%) ↓", "DNSMOS ↑", "n"),
    ]
    calm = {name: text.text for name, text in named(table, 6).items()}
    assert calm["temp"] == "1.0"
    assert calm["temp is"] == "noise variance"
    assert calm["head × ↑"] == "×12.2 ± 0.7"
    assert calm["WER (%) ↓"] == "24.7 [23.2, 27.7]"
    assert calm["n"] == "2/3"
    assert table.groups == [3]


def test_a_missing_value_is_a_dash_with_its_reason(results: Results) -> None:
    table = main_table(results)
    field = named(table, 2)["PPX ↓"]
    assert field.text == "—"
    assert field.footnote == "every transcript is empty"
    said = results.model_copy(update={"notes": ("every transcript is empty", "and more")})
    assert "every transcript is empty" not in main_table(said).notes
    assert "and more" in main_table(said).notes


def test_many_notes_that_say_the_same_are_few(results: Results) -> None:
    cut = tuple(f"a b/{i} x.wav is cut short: {i} of 99 samples decode" for i in range(30))
    other = tuple(f"{i}.wav is empty (0 bytes)" for i in range(5))
    said = results.model_copy(update={"notes": (*cut, *other, "one more")})
    notes = main_table(said).notes
    more = "… and 27 more like it, all in results.json"
    assert notes[-10:] == [*cut[:3], more, *other, "one more"]


def test_references_are_not_timed_and_miss_nothing(results: Results) -> None:
    assert named(main_table(results), 0)["overall × ↑"] == Text("")


def test_an_n_that_is_not_the_rows_is_said(results: Results) -> None:
    one = with_values(results, lambda v: (v.cell_id, v.metric) == ("rq-t1", "wer"), n=1)
    table = main_table(one)
    field = named(table, 4)["WER (%) ↓"]
    assert field.footnote == "n = 1"


def test_a_number_without_an_interval_says_why(results: Results) -> None:
    alone = {"low": None, "high": None, "reason": "an interval needs two"}
    gaps = tuple(
        gap.model_copy(update=alone if gap.value == 8.6 else {}) for gap in results.differences
    )
    changed = with_values(results, lambda value: value.metric == "wer", **alone)
    changed = changed.model_copy(update={"differences": gaps})
    table = main_table(changed)
    text = named(table, 5)["WER (%) ↓"]
    assert text == Text("16.1", "an interval needs two")
    assert difference_tables(changed)[0].rows[1][3] == Text("+8.6", "an interval needs two")


def test_a_row_that_was_never_measured_says_so(results: Results) -> None:
    rows = tuple(r for r in results.rows if (r.cell_id, r.metric) != ("calm-t1", "vert"))
    table = main_table(results.model_copy(update={"rows": rows}))
    field = named(table, 6)["VERT ↓"]
    assert field == Text("—", "not measured in this run")


def test_recipes_never_share_a_column(results: Results) -> None:
    at = ("calm-t1", "wer")
    moved = with_values(results, lambda v: (v.cell_id, v.metric) == at, recipe_id="other")
    recipes = results.recipes | {"other": {"metric": "wer", "asr": "small.en", "version": 1}}
    table = main_table(moved.model_copy(update={"recipes": recipes}))
    found = [i for i, text in enumerate(table.headings) if text.text == "WER (%) ↓"]
    assert len(found) == 2
    columns = [[line[i] for line in table.rows] for i in found]
    for a, b in zip(*columns, strict=True):
        assert "—" in (a.text, b.text)
        assert a.text != b.text
    notes = [str(table.headings[i].footnote) for i in found]
    assert notes[0].startswith("recipe with asr None")
    assert notes[1].startswith("recipe with asr small.en")


def test_a_metric_that_never_ran_needs_no_column_of_its_own(results: Results) -> None:
    names = [shown.column.name for shown in shown_columns(results)]
    assert names.count("ppx_geo") == 1  # the silence row has neither value nor recipe


def test_without_temperatures_there_are_no_temperature_columns(results: Results) -> None:
    table = main_table(results.model_copy(update={"cells": results.cells[:3]}))
    assert [text.text for text in table.headings][:2] == ["System", "overall × ↑"]


def test_head_steps_stand_apart_where_they_vary(results: Results) -> None:
    changed = results.cells[-1].model_copy(update={"head_steps": 4})
    cells = (*results.cells[:-1], changed)
    table = main_table(results.model_copy(update={"cells": cells}))
    assert named(table, 6)["head steps"].text == "4"
    assert row_title(changed, {changed.label}) == "CALM 1 step, 4 steps, temp 1.0"


def test_differences_say_what_it_would_take(results: Results) -> None:
    sweep, baseline = difference_tables(results)
    assert sweep.title == "What temperature changes"
    label = "RQ 8 & <i>codebooks</i>"
    assert texts(sweep) == [
        [label, "0.8 → 1.0", "PPX ↓", "+64.3 [+21.0, +110.9]", "3", "—"],
        ["CALM 1 step", "0.8 → 1.0", "WER (%) ↓", "+8.6 ± 10.0", "2", "4 (3 to 5)"],
    ]
    first = ["CALM 1 step", label, "0.8", "WER (%) ↓", "−2.7 [−6.0, −0.1]", "3", "—"]
    assert texts(baseline)[0] == first
    assert baseline.footnotes == {"fewer than 2 shared prompts": "a"}
    assert baseline.rows[1][4].footnote == "fewer than 2 shared prompts"


def test_held_out_loss_stands_once_for_each_system_with_its_difference(results: Results) -> None:
    assert held_out_table(results).rows == []
    losses = {"rq-t0.8": 0.46, "rq-t1": 0.46, "calm-t0.8": 0.41, "calm-t1": 0.41}
    known = {"metric": "text_nll", "recipe_id": "bytes", "n": 3}
    rows = [row(cell_id=c, value=v, low=0.4, high=0.5, **known) for c, v in losses.items()]
    differences = [
        Difference(cell_id=a, baseline_cell_id=b, value=v, low=v - 0.01, high=v + 0.01, **known)
        for a, b, v in (
            ("calm-t1", "calm-t0.8", 0.0),
            ("calm-t0.8", "rq-t0.8", -0.05),
            ("calm-t1", "rq-t1", -0.05),
        )
    ]
    changes = {
        "columns": (*results.columns, Column(name="text_nll", label="text NLL")),
        "rows": (*results.rows, *rows),
        "differences": (*results.differences, *differences),
    }
    table = held_out_table(results.model_copy(update=changes))
    label = "RQ 8 & <i>codebooks</i>"
    assert texts(table) == [
        [label, "0.460 [0.400, 0.500]", "", "", "3"],
        ["CALM 1 step", "0.410 [0.400, 0.500]", label, "−0.050 ± 0.010", "3"],
    ]
    assert "text NLL" not in printed(results.model_copy(update=changes), None)


def test_counts_stand_beside_the_numbers(results: Results) -> None:
    table = counts_table(results)
    assert [text.text for text in table.headings] == ["Count", "Silence"]
    assert texts(table) == [["perplexity.n_empty", "3"]]
    assert counts_table(results.model_copy(update={"counts": {}})).rows == []
    counts = {"silence": {"fad.n_vectors": 12_345_678.0, "fad.fad_inf_r_squared": 0.98765432}}
    table = counts_table(results.model_copy(update={"counts": counts}))
    assert texts(table) == [["fad.fad_inf_r_squared", "0.987654"], ["fad.n_vectors", "12345678"]]


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (10.0, 8.0, 12.0, " ± 2.0"),
        (10.0, 8.02, 12.0, " ± 2.0"),
        (10.0, 8.0, 12.1, " [8.0, 12.1]"),
        (10.0, None, None, ""),
        (-0.01, -1.0, 2.0, " [−1.0, 2.0]"),
    ],
)
def test_intervals(value: float, low: float | None, high: float | None, expected: str) -> None:
    assert interval_text(row(value=value, low=low, high=high), 1) == expected


def test_an_interval_of_too_few_clips_has_a_mark_and_the_table_says_what_it_means(
    results: Results,
) -> None:
    assert MARKED not in main_table(results).notes
    few = with_values(results, lambda value: value.metric == "wer", marked=True)
    table = main_table(few)
    assert MARKED in table.notes
    marked = [text.text for line in table.rows for text in line if "†" in text.text]
    assert len(marked) == 7
    assert all(text.endswith("]†") for text in marked)
    assert "wer_marked" in to_csv(results)


def test_what_a_column_is_about_is_said_once(results: Results) -> None:
    columns = [
        column.model_copy(update={"note": "about so many clips"})
        if column.name in ("vert", "wer")
        else column
        for column in results.columns
    ]
    table = main_table(results.model_copy(update={"columns": tuple(columns)}))
    assert table.notes.count("about so many clips") == 1


def test_numbers_have_true_signs_and_no_minus_zero() -> None:
    assert plain_number(-0.04, 1) == "0.0"
    assert plain_number(-0.06, 1) == "−0.1"
    assert [signed(v, 1) for v in (1.0, -1.0, 0.01, -0.01)] == ["+1.0", "−1.0", "0.0", "0.0"]


def test_a_column_chooses_its_decimals_and_its_arrow() -> None:
    column = Column(name="m", label="M", unit="ms", higher_is_better=None)
    assert [decimals_of(column, [v, None]) for v in (0.5, 5, 50, 5000)] == [3, 2, 1, 0]
    assert [decimals_of(column, [v]) for v in (0.0067, -0.0004, 2e-14, 0)] == [4, 5, 3, 3]
    assert decimals_of(column.model_copy(update={"decimals": 4}), [5]) == 4
    assert heading(column) == "M (ms)"


def test_clip_values_follow_the_columns_aggregate() -> None:
    def column(aggregate: str, *fields: str) -> Column:
        data = {"name": "m", "label": "M", "aggregate": aggregate, "fields": fields, "scale": 100}
        return Column.model_validate(data)

    values = {"a": 3.0, "b": 4.0, "zero": 0.0, "none": None, "huge": 1e6}
    assert column("mean", "a").clip_value(values) == 300.0
    assert column("ratio", "a", "b").clip_value(values) == 75.0
    assert column("exp_ratio", "zero", "b").clip_value(values) == 100.0
    for nothing in (("mean", "none"), ("ratio", "a", "zero"), ("set",), ("exp_mean", "huge")):
        assert column(*nothing).clip_value(values) is None


def test_markdown_is_a_table_that_nothing_can_break_out_of(results: Results) -> None:
    cell = results.cells[0].model_copy(update={"label": "a|b *c* `d`\n[e](http://f) &lt;"})
    text = to_markdown(main_table(results.model_copy(update={"cells": (cell, *results.cells[1:])})))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    pipes = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    assert pipes == [13] * 9
    assert r"a\|b \*c\* \`d\` \[e\](http://f) &amp;lt;" in lines[2]
    assert r"RQ 8 &amp; \<i\>codebooks\</i\> (baseline)" in text
    assert "— <sup>a</sup>" in text
    assert "\n<sup>a</sup> every transcript is empty\n" in text


def test_latex_escapes_every_special_character() -> None:
    table = Table(title=r"50% & #1 $x$ a_b {c} ~ ^ \ <d>")
    table.add_column("head × ↑", left=True)
    table.rows.append([Text("[x] −1 ± 2 —")])
    text = to_latex(table, "a b_c")
    assert (
        r"\caption{50\% \& \#1 \$x\$ a\_b \{c\} \textasciitilde{} \textasciicircum{} "
        r"\textbackslash{} \textless{}d\textgreater{}}"
    ) in text
    assert r"head $\times$ $\uparrow$ \\" in text
    assert r"{}[x] $-$1 $\pm$ 2 --- \\" in text
    assert r"\label{tab:a-b-c}" in text


def test_latex_has_one_field_per_column(results: Results) -> None:
    text = to_latex(main_table(results), "speech")
    body = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in body] == [11] * 8
    assert text.isascii()


def test_csv_holds_plain_numbers_of_every_column(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(results))))
    assert len(rows) == 7
    calm = rows[5]
    assert float(calm["wer"]) == 16.1
    assert float(calm["wer_high"]) == pytest.approx(16.1 * 1.12)
    assert calm["wer_recipe_id"] == "wer-recipe"
    assert (rows[6]["n_ok"], rows[6]["n_tried"]) == ("2", "3")
    assert (rows[2]["ppx_geo"], rows[2]["ppx_geo_reason"]) == ("", "every transcript is empty")
    assert "rtf" in calm  # not shown in the table, but part of the run


def test_a_mean_of_trainings_says_how_many_clips_failed(results: Results) -> None:
    one, other = (
        results.cells[5].model_copy(update={"training": seed, "cell_id": f"calm-{seed}"})
        for seed in (0, 1)
    )
    mean = {"value": 120.0, "low": 40.0, "high": 200.0, "least": 80.0, "greatest": 160.0, "n": 2}
    about = {"cell_ids": ("calm-0", "calm-1"), "metric": "ppx_geo", "recipe_id": "ppx_geo-recipe"}
    counts = {"calm-0": TrialCount(ok=3), "calm-1": TrialCount(ok=2, failed=1)}
    changes = {"cells": (one, other), "trials": counts, "pooled": (Pooled(**about, **mean),)}
    changed = results.model_copy(update={**changes, "differences": ()})
    assert texts(main_table(changed))[-1][-1] == "5/6"
    (*_, line) = csv.DictReader(io.StringIO(to_csv(changed)))
    assert (line["ppx_geo_low"], line["ppx_geo_high"]) == ("40.0", "200.0")


def test_footnotes_are_lettered_in_the_order_of_reading_and_each_stands_once() -> None:
    table = Table(title="", rows=[[Text("—", f"reason {i}") for i in range(703)]] * 2)
    marks = {0: "a", 25: "z", 26: "aa", 27: "ab", 52: "ba", 701: "zz", 702: "aaa"}
    assert [table.footnotes[f"reason {i}"] for i in marks] == list(marks.values())
    assert len(table.footnotes) == 703


def test_a_pipe_gets_the_table_in_one_piece(results: Results) -> None:
    lines = printed(results, None).splitlines()
    calm = next(line for line in lines if "CALM 1 step" in line)
    assert "noise variance" in calm
    assert calm.endswith("3")
    assert "RQ 8 & <i>codebooks</i> (baseline)" in "\n".join(lines)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_shows_speed_and_quality_and_says_what_it_leaves_out(
    results: Results, width: int
) -> None:
    text = printed(results, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    shown, said = text[: text.index("no room for")], " ".join(text.split())
    numbers = {"head ×": "×12.3 ± 0.7", "PPX": "82.9 ± 5.0", "WER (%)": "16.1 [15.1, 18.0]"}
    for name, number in numbers.items():
        assert (number in shown) != (f"{name} " in re.findall(r"no room for (.*?):", said)[0])
    assert "×1.31 ± 0.08" in shown
    assert "82.9 ± 5.0" in shown or width == 60
    assert re.findall(r"no room for .*?: (.{9})", said)[0] == "a wider t"
    assert "no room for" not in printed(results, 250)


def test_what_precision_changes_has_a_table_of_its_own(results: Results) -> None:
    exact, rough = (cell for cell in results.cells if cell.label == "CALM 1 step")
    update = {"precision": "int8", "label": "CALM 1 step, int8", "temperature": exact.temperature}
    update |= {"text_temperature": exact.text_temperature}
    cells = [cell for cell in results.cells if cell != rough]
    changed = results.model_copy(update={"cells": (*cells, rough.model_copy(update=update))})
    tables = {table.title: table for table in difference_tables(changed)}
    found = tables["What precision changes"]
    assert texts(found)[0][:3] == ["CALM 1 step, int8", "CALM 1 step", str(exact.temperature)]
    assert found.headings[-1].text == "level"
    assert texts(found)[0][-1] == "not shown"
    near = {"value": 0.1, "low": -0.2, "high": 0.4, "n": 32}
    close = [d.model_copy(update=near if d.metric == "wer" else {}) for d in changed.differences]
    changed = changed.model_copy(update={"differences": tuple(close)})
    tables = {table.title: table for table in difference_tables(changed)}
    assert texts(tables["What precision changes"])[0][-1] == "yes"
    del tables[found.title]
    assert {table.headings[-1].text for table in tables.values()} == {"n needed"}


def test_head_steps_and_other_systems_have_tables_of_their_own(results: Results) -> None:
    ours, base = results.cells[-1], next(cell for cell in results.cells if cell.baseline)
    known = {"label": "One", "temperature": 1.0, "text_temperature": 1.0, "baseline": False}
    one = ours.model_copy(update={**known, "cell_id": "one", "head_steps": 1})
    four = one.model_copy(update={"cell_id": "four", "head_steps": 4})
    renamed = one.model_copy(update={"cell_id": "renamed", "label": "Renamed"})
    gap = next(d for d in results.differences if d.value is not None)
    pairs = [("four", "one"), ("renamed", "one"), ("four", base.cell_id)]
    gaps = [
        gap.model_copy(update={"cell_id": a, "baseline_cell_id": b, "value": float(i)})
        for i, (a, b) in enumerate(pairs)
    ]
    cells = (base, one, four, renamed)
    changed = results.model_copy(update={"cells": cells, "differences": tuple(gaps)})
    found = {table.title: texts(table)[0][:3] for table in difference_tables(changed)}
    assert found == {
        "What head steps change": ["One", "1 → 4", "1.0"],
        "Against another system": ["Renamed", "One, 1 step", "1.0"],
        "Against the baseline": ["One, 4 steps", base.label, f"1.0 − {base.temperature}"],
    }


@pytest.mark.parametrize("width", [None, 80])
def test_two_rows_that_are_too_wide_are_turned_on_their_side(
    results: Results, width: int | None
) -> None:
    cells = (results.cells[2], results.cells[5])
    text = printed(results.model_copy(update={"cells": cells, "differences": ()}), width)
    lines = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    assert ["Silence", "CALM 1 step, temp 0.8"] in lines
    assert ["PPX ↓", "— a", "82.9 ± 5.0"] in lines
    assert ["n", "3", "3"] in lines
    assert max(len(line) for line in text.splitlines()) <= 100


def test_many_rows_are_not_turned(results: Results) -> None:
    changes = {"cells": results.cells[:3], "differences": ()}
    text = printed(results.model_copy(update=changes), None)
    assert any("System" in line and "PPX ↓" in line for line in text.splitlines())
