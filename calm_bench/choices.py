"""Words that an option takes from a fixed list."""

from collections.abc import Sequence
from typing import get_args

from calm_bench.errors import InputError, near_names


def choice(value: str, known: Sequence[str], what: str) -> str:
    """The word itself.

    Raises:
        InputError: If it is not among the known ones; near names are given.
    """
    if value in known:
        return value
    near = near_names(value, known) or known
    raise InputError(f"{value!r} is no {what}: did you mean {' or '.join(near)}?")


def precision(value: str) -> str:
    """A precision by name.

    Raises:
        InputError: For any other word.
    """
    from calm_bench.types import Precision

    return choice(value, get_args(Precision), "precision")
