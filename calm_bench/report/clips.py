"""What is known of each clip of a run: what was meant, what was heard, and its scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from calm_bench.report.columns import Shown
from calm_bench.store.records import ScoreRecord, TranscriptRecord, TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.types import WordTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word of a transcript or of the text that was meant.

    Attributes:
        given: It belongs to the prompt.
        differs: It has no equal on the other side.
    """

    text: str
    given: bool = False
    differs: bool = False


class ClipLookup:
    """Trials, transcripts and per-clip scores of a run, by what the page asks for."""

    def __init__(self, store: RunStore) -> None:
        """Read the run's records once."""
        self._trials = {(t.cell_id, t.prompt_id, t.seed_index): t for t in store.read(TrialRecord)}
        self._transcripts = {t.clip_id: t for t in store.read(TranscriptRecord)}
        self._scores = {
            (score.trial_id, score.metric, score.recipe_id): score
            for score in store.read(ScoreRecord)
        }

    def pairs(self) -> list[tuple[str, int]]:
        """Every prompt and seed index that was tried, in the order of the run."""
        return list(dict.fromkeys((prompt, seed) for _, prompt, seed in self._trials))

    def trial(self, cell_id: str, prompt_id: str, seed_index: int) -> TrialRecord | None:
        """What became of one trial; None if the run did not get to it."""
        return self._trials.get((cell_id, prompt_id, seed_index))

    def transcript(self, trial: TrialRecord) -> TranscriptRecord | None:
        """What was heard in a clip; None if nobody listened."""
        return self._transcripts.get(trial.clip_id) if trial.clip_id else None

    def score(self, trial: TrialRecord, shown: Shown) -> tuple[float | None, str | None]:
        """What a column says of one clip, and its metric's note; neither if it says nothing."""
        key = (trial.trial_id, shown.column.metric or "", shown.recipe_id or "")
        score = self._scores.get(key)
        if score is None:
            return None, None
        return shown.column.clip_value(score.values), score.note


def mark_differences(
    meant: Sequence[WordTimes] | None, heard: Sequence[WordTimes], prompt_seconds: float
) -> tuple[list[Word], list[Word]]:
    """The words that were meant and those that were heard, aligned by least edits and marked.

    Case and punctuation do not count. Nothing is marked in the prompt, or where nothing was meant.
    """
    texts = [[word for word, _, _ in side] for side in (meant or (), heard)]
    equal = _equal_words(*texts)
    sides = []
    for words, matched in zip((meant or (), heard), equal, strict=True):
        side = []
        for index, (text, start, _) in enumerate(words):
            given = start < prompt_seconds
            differs = index not in matched and bool(_plain(text))
            marked = differs and not given and meant is not None
            side.append(Word(text=text.strip(), given=given, differs=marked))
        sides.append(side)
    return sides[0], sides[1]


def _plain(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum())


def _equal_words(a: Sequence[str], b: Sequence[str]) -> tuple[set[int], set[int]]:
    """Indices of the words that the alignment finds equal, on either side."""
    import jiwer

    plain_a, plain_b = ({i: p for i, w in enumerate(side) if (p := _plain(w))} for side in (a, b))
    if not plain_a or not plain_b:
        return set(), set()
    out = jiwer.process_words(" ".join(plain_a.values()), " ".join(plain_b.values()))
    where_a, where_b = list(plain_a), list(plain_b)
    equal: tuple[set[int], set[int]] = (set(), set())
    for chunk in out.alignments[0]:
        if chunk.type == "equal":
            equal[0].update(where_a[chunk.ref_start_idx : chunk.ref_end_idx])
            equal[1].update(where_b[chunk.hyp_start_idx : chunk.hyp_end_idx])
    return equal
