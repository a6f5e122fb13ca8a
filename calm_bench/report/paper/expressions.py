"""What a claim measures, as a short expression over the rows of a run: parsed, never evaluated.

    value(rtf[calm-music, steps=10])                             one row
    difference(fad[calm-music, steps=4], fad[rq32-music])        first minus second
    ratio(head_ms[rq32-music], head_ms[rq16-music])              first over second
    order(fad[trigflow-music, steps=10|25|100], fad[rq32-music]) from each row to the next

A row is a metric of a model, named without its scale, at a temperature and a number of head steps
where these matter; several values after `=` stand for several rows in that order.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, NoReturn, cast

from calm_bench.errors import InputError, near_names

Function = Literal["difference", "order", "ratio", "value"]
FUNCTIONS: dict[Function, tuple[int, int | None]] = {
    "difference": (2, 2),
    "order": (2, None),
    "ratio": (2, 2),
    "value": (1, 1),
}
"""By name, the least and the greatest number of rows."""

_KEYS = ("temp", "steps")
_TOKEN = re.compile(r"\s*([A-Za-z0-9_.\-]+|[()\[\],=|])")
_NAME = re.compile(r"[a-z][a-z0-9_.\-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One row: which metric of which model, drawn how; None takes the only setting there is."""

    metric: str
    model: str
    temp: float | None = None
    steps: int | None = None

    def __str__(self) -> str:
        """The row as words."""
        text = self.model
        text += "" if self.steps is None else f", {self.steps} head step{'s' * (self.steps != 1)}"
        return text + ("" if self.temp is None else f", temp {self.temp:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A function of rows."""

    function: Function
    rows: tuple[Selector, ...]


@cache
def parse_expression(text: str) -> Expression:
    """Read an expression.

    Raises:
        InputError: What is wrong and at which character, with near names.
    """
    return _Parser(text).expression()


class _Parser:
    """A recursive descent over one expression."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, int]] = []
        self.index = 0
        position = 0
        stripped = text.rstrip()
        while position < len(stripped):
            found = _TOKEN.match(stripped, position)
            if found is None:
                self._fail("unexpected character", position)
            self.tokens.append((found[1], found.start(1)))
            position = found.end()

    def expression(self) -> Expression:
        name, at = self._name("function", FUNCTIONS)
        function = cast("Function", name)
        self._take("(")
        rows = list(self._selectors())
        while self._accept(","):
            rows += self._selectors()
        self._take(")")
        if self.index < len(self.tokens):
            self._fail("nothing may follow the last bracket", self.tokens[self.index][1])
        least, most = FUNCTIONS[function]
        if len(rows) < least or (most is not None and len(rows) > most):
            wanted = f"{least}" if most == least else f"at least {least}"
            self._fail(f"{function} takes {wanted} row{'s' * (least > 1)}, not {len(rows)}", at)
        return Expression(function=function, rows=tuple(rows))

    def _selectors(self) -> list[Selector]:
        metric, _ = self._name("metric")
        self._take("[")
        model, _ = self._name("model")
        settings: dict[str, list[float]] = {}
        while self._accept(","):
            key, at = self._name("setting", _KEYS)
            if key in settings:
                self._fail(f"{key} is set twice", at)
            self._take("=")
            settings[key] = [self._number(key)]
            while self._accept("|"):
                settings[key].append(self._number(key))
        self._take("]")
        temps = settings.get("temp", [None])
        steps = [None if s is None else int(s) for s in settings.get("steps", [None])]
        return [
            Selector(metric=metric, model=model, temp=temp, steps=step)
            for temp, step in product(temps, steps)
        ]

    def _name(self, kind: str, known: Collection[str] = ()) -> tuple[str, int]:
        token, at = self._next(f"a {kind}")
        if not _NAME.fullmatch(token):
            self._fail(f"expected a {kind}, not {token!r}", at)
        if known and token not in known:
            near = near_names(token, known) or list(known)
            self._fail(f"{token!r} is no {kind}; did you mean {' or '.join(near)}?", at)
        return token, at

    def _number(self, key: str) -> float:
        token, at = self._next("a number")
        pattern = r"\d+" if key == "steps" else r"\d+(\.\d+)?"
        if not re.fullmatch(pattern, token):
            self._fail(f"{key} must be a {'whole ' * (key == 'steps')}number, not {token!r}", at)
        return float(token)

    def _accept(self, token: str) -> bool:
        found = self.index < len(self.tokens) and self.tokens[self.index][0] == token
        self.index += found
        return found

    def _take(self, wanted: str) -> None:
        token, at = self._next(repr(wanted))
        if token != wanted:
            self._fail(f"expected {wanted!r}, not {token!r}", at)

    def _next(self, wanted: str) -> tuple[str, int]:
        if self.index >= len(self.tokens):
            self._fail(f"ends where {wanted} must stand", len(self.text))
        self.index += 1
        return self.tokens[self.index - 1]

    def _fail(self, message: str, at: int) -> NoReturn:
        raise InputError(f"{self.text!r}, character {at + 1}: {message}")
