"""The spoken form: what sounds alike is alike, whoever wrote it down, and what differs differs."""

import pytest

from calm_bench.asr.words import align, letters_are_latin, normalise, plain, spoken
from calm_bench.metrics.perplexity import TrigramModel, trigram_words

SAME = [
    ("It’s Tom’s dog, isn’t it?", "It's Tom's dog, isn't it?"),
    ("“I don’t know,” she said.", '"I don\'t know," she said.'),
    ("a well‑known twenty‑one year old", "a well-known twenty-one year old"),
    ("the soft\xadhyphen\u200b and a\ufeff mark", "the softhyphen and a mark"),
    ("the \ufb01rst of\ufb01ce", "the first office"),
    ("\uff26\uff55\uff4c\uff4c \uff57\uff49\uff44\uff54\uff48", "full width"),
    ("the dog—the cat", "the dog the cat"),
    ("a\xa0non\xa0breaking space", "a non breaking space"),
    ("the 1st time", "the first time"),
    ("the 9th house", "the ninth house"),
    ("the 21st century", "the twenty-first century"),
    ("the 112th", "the one hundred and twelfth"),
    ("in 1984", "in nineteen eighty-four"),
    ("in 1905", "in nineteen oh five"),
    ("in 1900", "in nineteen hundred"),
    ("in 2005", "in two thousand and five"),
    ("in 2012", "in twenty twelve"),
    ("in 2012", "in two thousand twelve"),
    ("the 1990s", "the nineteen nineties"),
    ("the ’60s", "the sixties"),
    ("It costs $5", "it costs five dollars"),
    ("It costs $1", "it costs one dollar"),
    ("It costs $3.50", "it costs three dollars and fifty cents"),
    ("It costs $2.5 million", "it costs two point five million dollars"),
    ("It costs £20", "it costs twenty pounds"),
    ("It costs \u20ac1,200", "it costs one thousand two hundred euros"),
    ("99 cents", "ninety nine cents"),
    ("50% of them", "fifty percent of them"),
    ("3.5 % of them", "three point five per cent of them"),
    ("at 10:30", "at ten thirty"),
    ("at 7:05", "at seven oh five"),
    ("at 10:00", "at ten o'clock"),
    ("at 9 a.m.", "at nine AM"),
    ("at 9:00 PM", "at nine p.m."),
    ("pi is 3.14", "pi is three point one four"),
    ("1,204 sheep", "one thousand two hundred and four sheep"),
    ("105 sheep", "one hundred and five sheep"),
    ("100 sheep", "a hundred sheep"),
    ("2,000,000 sheep", "two million sheep"),
    ("1, 2, 3", "one, two, three"),
    ("1 2 3 go", "one two three go"),
    ("911", "nine one one"),
    ("agent 007", "agent zero zero seven"),
    ("½ a mile", "one half a mile"),
    ("2½ miles", "two and a half miles"),
    ("3/4 of it", "three quarters of it"),
    ("2 1/2 miles", "two and a half miles"),
    ("okay then", "OK then"),
    ("It is O.K.", "it is okay"),
    ("He lives on Main St.", "He lives on Main Street."),
    ("5th St. is closed", "Fifth Street is closed"),
    ("the road to St. Ives", "the road to Saint Ives"),
    ("Mr. Fox met Dr. Brown", "Mister Fox met Doctor Brown"),
    ("the U.S. Army", "the US Army"),
    ("salt & pepper", "salt and pepper"),
    ("It was -5 degrees", "it was minus five degrees"),
    ("20°C", "twenty degrees Celsius"),
    ("No. 5", "number five"),
    ("grey colour", "gray color"),
    ("I cannot go", "I can not go"),
    ("The dog (a poodle) ran", "The dog, a poodle, ran"),
    ("good, etc.", "good, et cetera"),
    ("cats vs. dogs", "cats versus dogs"),
    ("C3PO and mp3", "C 3 PO and MP three"),
    ("naïve café", "naive cafe"),
    ("He said 'hello' to me", "He said hello to me"),
    ("twenty to 30 people", "20 to thirty people"),
    ("seven of 9", "seven of nine"),
    ("no one knows", "No one knows."),
    ("the 3rd of May", "the third of May"),
    ("gonna go", "going to go"),
    ("May 5th, 2020", "May fifth twenty twenty"),
    ("30-40", "thirty forty"),
    ("the 100th", "the hundredth"),
    ("Mr. O’Brien came at ten o’clock", "Mister OBrien came at 10 oclock"),
    ("a 6-year-old", "a six year old"),
    ("10k", "ten k"),
    ("1500 people", "fifteen hundred people"),
    ("1500 people", "one thousand five hundred people"),
    ("1500 people", "1,500 people"),
    ("\u22125 degrees", "minus five degrees"),
    ("I don\u02bct, you don\u2032t", "I don't, you don't"),
    ("we don`t, they don\uff07t", "we don't, they don't"),
    ("On January 5th, 2024", "on January fifth twenty twenty four"),
    ("Mr. & Mrs. Brown", "mister and missus Brown"),
    ("$1,234.56", "one thousand two hundred thirty four dollars and fifty six cents"),
]

DIFFERENT = [
    ("in 1984", "in 1985"),
    ("the 1st time", "the second time"),
    ("$5", "5"),
    ("$5", "£5"),
    ("5%", "5"),
    ("3.5", "3.6"),
    ("3.5", "35"),
    ("10:30", "10:40"),
    ("one two three", "one two four"),
    ("don't", "do"),
    ("he is", "he was"),
    ("okay", "oak"),
    ("main street", "main saint"),
    ("1/2", "1/3"),
    ("2½", "21/2"),
    ("-5", "5"),
    ("105", "150"),
    ("a dog", "the dog"),
    ("the 1990s", "the 1980s"),
    ("1st", "first one"),
    ("fifteen", "fifty"),
    ("can't go", "cannot go not"),
    ("7:05", "7:50"),
    ("salt & pepper", "salt pepper"),
]

READ_IN_TWO_WAYS = {
    "911",
    "gonna go",
    "grey colour",
    "the 100th",
    "Mr. O’Brien came at ten o’clock",
}
"""What has two spoken forms, of which the digits or the spelling do not tell which it was."""


def error_rate(meant: str, heard: str) -> float:
    reference = normalise(meant)
    return sum(step.kind != "equal" for step in align(reference, normalise(heard))) / len(reference)


@pytest.mark.parametrize(("written", "other"), SAME)
def test_what_sounds_alike_has_no_error(written: str, other: str) -> None:
    assert error_rate(written, other) == error_rate(other, written) == 0.0


@pytest.mark.parametrize(("written", "other"), DIFFERENT)
def test_what_sounds_different_has(written: str, other: str) -> None:
    assert error_rate(written, other) > 0.0
    assert error_rate(other, written) > 0.0


@pytest.mark.parametrize(
    ("written", "other"), [pair for pair in SAME if pair[0] not in READ_IN_TWO_WAYS]
)
def test_a_language_model_reads_the_same_words(written: str, other: str) -> None:
    assert trigram_words([spoken(written)]) == trigram_words([spoken(other)])


@pytest.mark.extra("offline")
def test_a_numeral_costs_no_perplexity() -> None:
    digits, words = (
        TrigramModel().score(spoken(text).split()) for text in ("the 1st time", "the first time")
    )
    assert digits == words
    assert digits.n_unknown == 0


def test_typography_is_made_plain() -> None:
    assert plain("\u201cIt\u2019s a well\u2011known \ufb01sh\u201d") == '"It\'s a well-known fish"'
    assert plain("soft\u00adhyphen, zero\u200bwidth, \ufeffmark, \uff26\uff55\uff4c\uff4c") == (
        "softhyphen, zerowidth, mark, Full"
    )


def test_long_and_odd_numbers_are_read_somehow() -> None:
    for text in (
        "9" * 400,
        "$" + "9" * 400 + ".50",
        "9" * 400 + "th",
        "1/0",
        "00:99",
        "1.2.3",
        "\u0663",
    ):
        assert not any(c.isdigit() for c in spoken(text).replace("1/0", "").replace("00:99", ""))


def test_other_languages_have_whole_numbers_spelled() -> None:
    assert spoken("3 Hunde", "de").split() == ["drei", "Hunde"]
    assert spoken("3 mbwa", "sw") == "3 mbwa"  # num2words knows no Swahili
    assert normalise("Drei Hunde!", "de") == normalise("3 Hunde", "de") == ("drei", "hunde")
    assert normalise("\u4f60\u597d", "zh") == ("\u4f60", "\u597d")


def test_scripts() -> None:
    assert letters_are_latin("Straße, café — 3")
    assert letters_are_latin("...")
    assert not letters_are_latin("Привет, world")
