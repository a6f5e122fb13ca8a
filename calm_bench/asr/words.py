"""Words as recognisers and texts have them: as they are said, normalised, timed, side by side.

Two people who hear the same sentence may write "the 1st time" or "the first time". Every score of
words looks at the spoken form of both (plain letters, with numbers, symbols and short forms in
words), so that none depends on who wrote the text down.
"""

import difflib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

from calm_bench.types import TimedWord

_TYPOGRAPHY = str.maketrans(
    dict.fromkeys("‘’‚‛′´`ʹʻʼʽˈ՚＇", "'")
    | dict.fromkeys("“”„‟″«»‹›〝〞＂", '"')
    | dict.fromkeys("‐‑‒–⁃−﹣－", "-")
    | dict.fromkeys("—―", " - ")
    | dict.fromkeys("™℠®©", "")
)
_VULGAR = re.compile("(?<=[0-9])(?=[¼-¾⅐-⅞])")
_INVISIBLE = re.compile("[\N{COMBINING GRAPHEME JOINER}\N{VARIATION SELECTOR-1}-\ufe0f]")
_CURRENCIES = {
    "$": ("dollar", "dollars", "cents"),
    "€": ("euro", "euros", "cents"),
    "£": ("pound", "pounds", "pence"),
    "¥": ("yen", "yen", ""),
}
_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_SCALE = "hundred|thousand|million|billion|trillion"
_TEENS = "ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
_TENS = "(?:twen|thir|for|fif|six|seven|eigh|nine)t"
_SMALL = (
    f"one|two|three|four|five|six|seven|eight|nine|{_TEENS}|{_TENS}y|first|second|third|"
    f"(?:four|fif|six|seven|eigh|nin|twelf|{_TEENS})th|{_TENS}ieth"
)
_PARTS = {2: ("half", "halves"), 4: ("quarter", "quarters")}
_LONGEST = 15  # digits; a longer run is a telephone's or a card's and is read one by one

_WITHOUT_SPACES = {"zh", "ja", "th", "lo", "my", "yue"}
"""Languages whose error rate is of characters, as Whisper's authors count it."""


@dataclass(frozen=True, slots=True)
class Token:
    """A normalised word with the onset and the index of the word it came from."""

    text: str
    start: float
    word: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an alignment: `equal`, `substitute`, `delete` or `insert`, with both indices."""

    kind: str
    reference: int
    heard: int


@lru_cache(maxsize=1 << 16)
def normalise(text: str, language: str = "en") -> tuple[str, ...]:
    """The words of a text as it is said, without case, punctuation or spelling variants.

    English numbers come out in digits, those said in a row as one: 105, 9th, $3.50, 123.
    """
    # The normaliser would read the O of o'clock and O'Brien as a zero.
    said = re.sub(r"(?i)\bo'(?=\w)", "o", spoken(text, language))
    # What is left of "..." is a lone full stop: no word, and it would count as an insertion.
    words = _normaliser(language)(said).split()
    return tuple(word for word in words if any(map(str.isalnum, word)))


def tokens_of(words: Sequence[TimedWord], language: str = "en") -> list[Token]:
    """The normalised words of a timed text.

    Normalising may split a word ("don't") or join several ("twenty one"), so the text is normalised
    whole and matched to its words normalised one by one.
    """
    single = [
        Token(text, word.start, index)
        for index, word in enumerate(words)
        for text in normalise(word.word, language)
    ]
    whole = normalise(" ".join(word.word for word in words), language)
    before = [token.text for token in single]
    if list(whole) == before:
        return single
    found: list[Token] = []
    matcher = difflib.SequenceMatcher(None, before, whole, autojunk=False)
    for _, i, i_end, j, j_end in matcher.get_opcodes():
        for k in range(j_end - j):
            source = single[max(0, min(i + k, i_end - 1))] if single else Token("", 0.0, 0)
            found.append(Token(whole[j + k], source.start, source.word))
    return found


def align(reference: Sequence[str], heard: Sequence[str]) -> list[Step]:
    """The steps of a shortest edit from what was meant to what was heard."""
    from jiwer import process_words

    output = process_words([" ".join(reference)], [" ".join(heard)])
    steps = []
    for chunk in output.alignments[0]:
        length = max(
            chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
        )
        steps += [
            Step(chunk.type, chunk.ref_start_idx + k, chunk.hyp_start_idx + k)
            for k in range(length)
        ]
    return steps


@cache
def _normaliser(language: str) -> Any:
    if language == "en":
        from whisper_normalizer.english import EnglishTextNormalizer

        return EnglishTextNormalizer()
    from whisper_normalizer.basic import BasicTextNormalizer

    return BasicTextNormalizer(preserve_marks=True, split_letters=language in _WITHOUT_SPACES)


# NFKC takes some of these apart into a space and an accent, so they are replaced before it.
def plain(text: str) -> str:
    """The text in compatibility form, without typography and without what cannot be seen."""
    text = _VULGAR.sub(" ", text).translate(_TYPOGRAPHY)
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


@lru_cache(maxsize=1 << 14)
def spoken(text: str, language: str = "en") -> str:
    """The text as it is said, letter case and punctuation kept.

    Languages other than English have whole numbers spelled, and those only where num2words can.
    """
    text = re.sub(r"\[[^]]*\]|<[^>]*>", " ", plain(text))  # remarks on the sound, not said
    rules = _ENGLISH if language == "en" else [(r"\d+", partial(_spell_in, language))]
    for pattern, said in rules:
        text = re.sub(pattern, said, text)
    return text


def letters_are_latin(text: str) -> bool:
    """Whether at least half of a text's letters are Latin ones; so is a text without letters."""
    letters = [c for c in plain(text) if c.isalpha()]
    return 2 * sum(unicodedata.name(c, "").startswith("LATIN") for c in letters) >= len(letters)


def _words(number: str, kind: str = "cardinal", language: str = "en") -> str:
    """A whole number in words without hyphens, commas or "and", as Americans read it."""
    from num2words import num2words

    digits = number.replace(",", "")
    if len(digits) > _LONGEST:
        return " ".join(_words(digit, "cardinal", language) for digit in digits)
    said = str(num2words(int(digits), to=kind, lang=language))
    if language != "en":
        return said
    return re.sub(r"[-,\s]+", " ", said.replace(" and ", " "))


def _spell_in(language: str, match: re.Match[str]) -> str:
    try:
        return f" {_words(match[0], language=language)} "
    except NotImplementedError:
        return match[0]


def _whole(digits: str) -> str:
    """A run of digits: a year where it may be one, one by one where it is no quantity."""
    bare = digits.replace(",", "")
    if len(bare) > 1 and bare[0] == "0":
        return " ".join(_words(digit) for digit in bare)
    is_year = len(digits) == 4 and int(digits) < 2100 and digits[1:3] != "00" != digits[2:]
    return _words(bare, "year" if is_year else "cardinal")


def _amount(number: str) -> str:
    whole, _, decimals = number.partition(".")
    said = [_whole(whole)] if whole else []
    said += ["point", *map(_words, decimals)] if decimals else []
    return " ".join(said)


def _counted(count: str, one: str, many: str) -> str:
    return f"{count} {one if count == 'one' else many}"


def _money(match: re.Match[str]) -> str:
    """$3.50 is three dollars and fifty cents, $3.5 million three point five million dollars."""
    symbol, number, scale = match[1], match[2], match[3]
    one, many, small = _CURRENCIES[symbol]
    if scale:
        return f" {_amount(number)} {scale} {many}"
    whole, _, cents = number.partition(".")
    if not (small and len(cents) == 2):
        return " " + _counted(_amount(number), one, many)
    parts = [_counted(_whole(whole), one, many)] if int(whole.replace(",", "")) else []
    parts += [_counted(_words(cents), small.removesuffix("s"), small)] if int(cents) else []
    return " " + (" and ".join(parts) or f"zero {many}")


def _time(match: re.Match[str]) -> str:
    """10:30 is ten thirty, 7:05 seven oh five, 10:00 ten o'clock, or ten before a.m."""
    hour, minute, half = _words(match[1]), match[2], match[3]
    if minute == "00":
        return f"{hour} {half}" if half else f"{hour} o'clock"
    minutes = f"oh {_words(minute)}" if minute[0] == "0" else _words(minute)
    return f"{hour} {minutes} {half or ''}"


def _fraction(match: re.Match[str]) -> str:
    """2 3/4 is two and three quarters, 1/2 one half; what may be a date stays as it is."""
    whole, over, under = match[1], int(match[2]), int(match[3])
    if not 0 < over < under or under > 100:
        return match[0]
    name = _words(match[3], "ordinal")
    one, many = _PARTS.get(under, (name, f"{name}s"))
    if whole is None:
        return f" {_counted(_words(match[2]), one, many)} "
    return f" {_words(whole)} and {f'a {one}' if over == 1 else f'{_words(match[2])} {many}'} "


def _decade(match: re.Match[str]) -> str:
    """The 1990s are the nineteen nineties."""
    said = _whole(match[1])
    if said.endswith("y"):
        return f"{said[:-1]}ies"
    return said + ("es" if said.endswith("x") else "s")


def _hundreds(match: re.Match[str]) -> str:
    """Fifteen hundred is what 1,500 and 1500 are, too: one thousand five hundred."""
    teens = [_words(str(number)) for number in range(10, 20)]
    count = teens.index(match[1].lower())
    return f"one thousand {_words(str(count))} hundred" if count else match[0]


Rule = tuple[str, str | Callable[[re.Match[str]], str]]


# In this order: a rule may rely on what those before it have left.
_ENGLISH: tuple[Rule, ...] = (
    (r"[()]", " "),
    (r"(?i)\bo\.?k\b\.?", "okay"),
    (r"(?i)\balright\b", "all right"),
    (r"(?i)\bcan not\b", "cannot"),
    (r"(?i)\bper cent\b", "percent"),
    (r"(?i)\bvs\b\.?", "versus"),
    (r"(?i)\betc\b\.?", "et cetera"),
    (r"(?i)\bmr\b\.?", "Mister"),
    (r"(?i)\bmrs\b\.?", "Missus"),
    (r"\b[Nn][o°]\.?\s?(?=\d)|#\s?(?=\d)", "number "),
    (r"\b((?:[A-Z]\w+|\d+(?:st|nd|rd|th)))\s+St\b\.?(?!\s+[A-Z])", r"\1 Street"),
    (r"\bSt\b\.?(?=\s+[A-Z])", "Saint"),
    (r"\bDr\b\.?(?=\s+[A-Z])", "Doctor"),
    (r"(?i)(?<=\d)\s?([ap])\.?\s?m\b\.?", lambda m: f" {m[1].lower()}m "),
    (r"\b([A-Za-z])\.(?=[A-Za-z]\b)", r"\1"),  # the stops of U.S.A., but for its last
    (r"&", " and "),
    (r"(?<=\w)@(?=\w)", " at "),
    (r"=", " equals "),
    (r"\+(?=\s?\d)", " plus "),
    (r"(?<![\w.)-])-(?=\.?\d)", "minus "),
    (r"°\s?C\b", " degrees Celsius "),
    (r"°\s?F\b", " degrees Fahrenheit "),
    (r"°", " degrees "),
    (rf"([$€£¥])\s?({_NUMBER})(?:[\s-]?({_SCALE})\b)?", _money),
    (rf"({_NUMBER})\s?¢", r"\1 cents"),
    (r"(?<=\d)\s?%", " percent"),
    (r"\b([01]?\d|2[0-3]):([0-5]\d)(?!:?\d)(?:\s?([ap]m)\b)?", _time),
    (r"(?<![\d/])(?:(\d+)\s)?(\d+)[/\N{FRACTION SLASH}](\d+)(?![\d/])", _fraction),
    (r"(?i)(\d[\d,]*)(?:st|nd|rd|th)\b", lambda m: f" {_words(m[1], 'ordinal')} "),
    (r"'?\b(\d{2,4})'?s\b", _decade),
    (r"(\d{1,3}(?:,\d{3})+)(?!\d)", lambda m: _words(m[1])),
    (r"(?<!\d)\d+(?:\.\d+)+|(?<![\w.])\.\d+|\d+", lambda m: f" {_decimals(m[0])} "),
    (rf"(?i)(?<!half )\ba (?={_SCALE})", "one "),
    (rf"(?i)\b({_SCALE}) and (?=(?:{_SMALL})\b)", r"\1 "),
    (rf"(?i)\btwo thousand (?=(?:{_TEENS}|{_TENS}y)\b(?! (?:{_SCALE})))", "twenty "),
    (rf"(?i)\b({_TEENS}) hundred\b", _hundreds),
    (r" {2,}", " "),
)


def _decimals(number: str) -> str:
    """3.50 is three point five zero; of 1.2.3 each part is read as a whole number."""
    parts = number.split(".")
    return _amount(number) if len(parts) < 3 else " point ".join(map(_whole, parts))
