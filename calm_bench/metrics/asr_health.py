"""How often the recogniser's text is suspect: the flags that must be read beside WER and PPX.

Whisper loops over noise and invents text over silence, and both lower perplexity. A row with many
flagged clips has text scores of the recogniser's making, not of the system's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from calm_bench.asr.recognizer import FLAGS, THRESHOLDS
from calm_bench.metrics.base import Fields, Metric, Need, each_clip
from calm_bench.metrics.text import missing_text
from calm_bench.types import Clip, Column, MetricResult


def _share(name: str, label: str) -> Column:
    return Column.of(name, label, "%", better=False, aggregate="share")


class AsrHealth(Metric):
    """Share of clips whose transcript set off an alarm, any and each, and of empty ones."""

    name = "asr_health"
    scope = "clip"
    needs: ClassVar[frozenset[Need]] = frozenset({"transcript"})
    columns = (
        _share("flagged", "flagged transcripts"),
        _share("empty", "empty transcripts"),
        *(_share(f"flag_{flag}", f"flag: {flag.replace('_', ' ')}") for flag in FLAGS),
    )

    @property
    def recipe(self) -> Mapping[str, Any]:
        return dict(THRESHOLDS)

    def score(self, clips: Sequence[Clip], reference: Sequence[Clip]) -> MetricResult:
        """One and zero per alarm and clip; clips without a transcript are noted."""
        found = each_clip(clips, _alarms)
        return replace(
            found,
            counts={
                f"n_{name}": sum(fields.get(name) or 0.0 for fields in found.clips.values())
                for name in ("flagged", "empty")
            },
        )


def _alarms(clip: Clip) -> tuple[Fields, str | None]:
    if clip.transcript is None:
        return {}, missing_text(clip)
    flags = clip.transcript.flags
    fields = {
        "flagged": float(bool(flags)),
        "empty": float(not clip.transcript.words),
        **{f"flag_{flag}": float(flag in flags) for flag in FLAGS},
    }
    return fields, None
