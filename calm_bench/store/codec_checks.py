"""What codecs make of prompts that no model was trained on, and the sentence that says so.

A system hears a prompt as its codec renders it. Where that is nearly mute or says nothing, the row
continues something else than the recording. The limits were set beside the shipped codecs: their
own benchmarks' prompts lose 1 to 8 dB and, of speech, keep a STOI above 0.85. Voices recorded at
8 kHz lose 17 to 38 dB; and of audiobook voices at 16 kHz, those that come back with a STOI below
0.75 are misheard in more than half of their words.
"""

from collections.abc import Iterator, Sequence
from statistics import median

from calm_bench.core.recordings import few
from calm_bench.store.records import Record

LEVEL_DB = 10.0
STOI = 0.75
BANDWIDTH = 0.5


class CodecCheck(Record):
    """One prompt beside what a codec returns of it.

    Attributes:
        recipe_id: Hash of the prompt, the codec and what is compared.
        level_db, returned_level_db: Mean square, dB of full scale.
        bandwidth_hz, returned_bandwidth_hz: The highest frequency within 50 dB of the strongest.
        stoi: None for what is no speech, or where it is not defined.
    """

    file = "codec_checks.jsonl"
    key_fields = ("prompt_id", "codec")

    prompt_id: str
    codec: str
    recipe_id: str
    level_db: float
    returned_level_db: float
    bandwidth_hz: float
    returned_bandwidth_hz: float
    stoi: float | None = None

    @property
    def change_db(self) -> float:
        """How much louder the prompt comes back."""
        return self.returned_level_db - self.level_db

    @property
    def is_carried(self) -> bool:
        """Whether what comes back is still the recording."""
        return (
            abs(self.change_db) <= LEVEL_DB
            and (self.stoi is None or self.stoi >= STOI)
            and self.returned_bandwidth_hz >= BANDWIDTH * self.bandwidth_hz
        )

    @property
    def text(self) -> str:
        """The numbers in words."""
        return _text([self])


def codec_notes(checks: Sequence[CodecCheck]) -> Iterator[str]:
    """A sentence for each codec: what it returns of the prompts, and which it cannot carry."""
    for codec in dict.fromkeys(check.codec for check in checks):
        own = [check for check in checks if check.codec == codec]
        lost = [check for check in own if not check.is_carried]
        if not lost:
            all_of_them = "the prompt" if len(own) == 1 else f"the {len(own)} prompts"
            yield f"{codec} returns {all_of_them} at {_text(own)}"
            continue
        names = few([check.prompt_id for check in lost])
        those = "the prompt" if len(own) == 1 else f"{len(lost)} of {len(own)} prompts"
        yield (
            f"{codec} cannot carry {those} ({names}), which it returns at "
            f"{_text(lost)}: rows that hear through it do not continue these recordings"
        )


def _text(checks: Sequence[CodecCheck]) -> str:
    """Level, STOI and bandwidth; of several prompts the medians."""
    heard = [check.stoi for check in checks if check.stoi is not None]
    parts = [f"{median(check.change_db for check in checks):+.1f} dB".replace("-", "−")]
    parts += [f"STOI {median(heard):.2f}"] if heard else []
    before, after = (
        median(values) / 1000
        for values in zip(*((c.bandwidth_hz, c.returned_bandwidth_hz) for c in checks), strict=True)
    )
    parts.append(f"bandwidth {after:.1f} kHz (before {before:.1f} kHz)")
    return ", ".join(parts) + (", medians" if len(checks) > 1 else "")
