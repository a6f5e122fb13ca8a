"""What a list says is spoken, against what a recogniser listens to."""

from collections.abc import Sequence

from calm_bench.asr import load_recognizer
from calm_bench.data.sources import Candidate
from calm_bench.errors import InputError

__all__ = ["refuse_other_languages"]


def refuse_other_languages(candidates: Sequence[Candidate], recogniser: str) -> None:
    """Refuse recordings that are listed in another language than the recogniser listens to.

    Languages are known by two letters: en, eng, en-US and English are one.

    Raises:
        InputError: If there are some.
    """
    named = [(c.id, c.language) for c in candidates if c.language]
    heard = load_recognizer(recogniser).language if named else ""
    other = [(name, said) for name, said in named if said[:2].lower() != heard[:2]]
    if other:
        raise InputError(
            f"{len(other)} of {len(candidates)} recordings are not in {heard!r}, {other[0][0]} "
            f"for one is in {other[0][1]!r}: say --language, or list one language alone"
        )
