"""What is timed against which package, and what each timer holds. No torch: the plan reads this."""

from dataclasses import dataclass, field

PACKAGE, CONTROL = "package", "package again"
"""The package as it comes, and the same a second time in each round, which shows what the machine
adds to a ratio."""
PACKAGE_INT8, PACKAGE_SINGLE = "package int8", "package single"
"""The package's own int8 mode; and, where a call makes several frames, one call for each."""


def ours(precision: str) -> str:
    """The arm of our code at a precision."""
    return f"ours {precision}"


def is_ours(arm: str) -> bool:
    """Whether an arm is our code."""
    return arm.startswith(ours(""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A package's model and its twin, timed in a process of their own.

    Attributes:
        module: The module whose import the package is there by; `distribution` is its name on the
            index.
        title: What it is called in the table.
    """

    name: str
    module: str
    distribution: str
    title: str
    shape: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that is timed.

    Attributes:
        inside: What one call does on both sides; all else is outside of the timer.
        frames: Codec frames per call.
        rows: Clips that our arms take a step of at once, where the package takes one; times are per
            clip.
        calls: Calls per timed block.
        modes: What else the package itself can do here.
        precisions: Of ours that differ here: codecs are float32 whatever the rest is.
        goals: By our precision, the speed-up aimed at.
    """

    pair: str
    name: str
    title: str
    inside: str
    calls: int
    frames: int = 1
    rows: int = 1
    modes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32", "fp16", "bf16", "int8")
    goals: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What records name it by."""
        return f"{self.pair}/{self.name}"


PAIRS = {
    pair.name: pair
    for pair in (
        Pair(
            name="pocket-english",
            module="pocket_tts",
            distribution="pocket-tts",
            title="pocket-tts english",
            shape="backbone 6 × 1024, head 6 × 512, 32-d latents at 12.5 Hz",
        ),
        Pair(
            name="pocket-18m",
            module="pocket_tts",
            distribution="pocket-tts",
            title="pocket-tts english_18m",
            shape="backbone 8 × 512, head 4 × 192, 32-d latents at 12.5 Hz",
        ),
        Pair(
            name="moshi",
            module="moshi",
            distribution="moshi",
            title="moshi, 85M",
            shape="backbone 6 × 512, depth transformer 6 × 256 with weights per level, 8 levels of "
            "2048, text of 8000, context 250",
        ),
        Pair(
            name="moshi-3000",
            module="moshi",
            distribution="moshi",
            title="moshi, 85M, context 3000",
            shape="the same with moshi's own context of 3000 positions",
        ),
        Pair(
            name="mimi",
            module="moshi",
            distribution="moshi",
            title="Mimi",
            shape="8 levels of 2048, transformer 8 × 512 of context 250, 24 kHz at 12.5 Hz",
        ),
        Pair(
            name="musicgen",
            module="transformers",
            distribution="transformers",
            title="transformers' MusicGen, 33M",
            shape="decoder 6 × 512, 4 codebooks of 2048 at 50 Hz, no text",
        ),
    )
}

FP32 = ("fp32",)
_STEP = (
    "one frame: embedding the last one, backbone, end-of-speech logit, noise, head in one step; "
    "128 frames are in the cache; no codec"
)
_HEAD = "the head alone on a context that stays: noise, one step"
_DECODER = (
    "latents to audio, streamed, after 24 frames; the package's cache grows with the clip and is "
    "read whole, ours keeps its context"
)
_MOSHI = (
    "one frame: embedding text and 8 codes, backbone, text logits, drawing the text (top-k 25), 8 "
    "depth levels with drawing (top-k 250); 128 frames are in our cache, the package always reads "
    "its whole ring; no codec"
)
_MIMI = "codes to audio{}: codebooks, both projections, transformer, SEANet decoder"


_EIGHT = (
    Item(
        pair="pocket-english",
        name="step-b8",
        title="LM step per clip, ours of 8 clips at once",
        inside=_STEP,
        calls=12,
        rows=8,
        precisions=("fp32", "bf16", "int8"),
        goals={"int8": 8.0},
    ),
    Item(
        pair="pocket-english",
        name="linears-b8",
        title="the backbone's products per row, ours of 8 rows at once",
        inside="the 24 matrices of the backbone, each multiplied once; the package's by its own "
        "linear layers with one row",
        calls=12,
        rows=8,
        precisions=("fp32", "bf16", "int8"),
        goals={"int8": 12.0},
    ),
)


def _pocket(
    pair: str, step: dict[str, float], decoder: dict[str, float], several: tuple[Item, ...] = ()
) -> tuple[Item, ...]:
    title = {"1": "VAE decode, 1 frame a call", "4": "VAE decode, 4 frames a call"}
    return (
        Item(
            pair=pair,
            name="step",
            title="LM step",
            inside=_STEP,
            calls=12,
            modes=(PACKAGE_INT8,),
            goals=step,
        ),
        *several,
        Item(pair=pair, name="head", title="head", inside=_HEAD, calls=30),
        Item(
            pair=pair, name="decode1", title=title["1"], inside=_DECODER, calls=12, precisions=FP32
        ),
        Item(
            pair=pair,
            name="decode4",
            title=title["4"],
            inside=_DECODER,
            calls=4,
            frames=4,
            precisions=FP32,
            modes=(PACKAGE_SINGLE,),
            goals=decoder,
        ),
    )


ITEMS = {
    item.key: item
    for item in (
        *_pocket("pocket-english", {"fp32": 1.15, "bf16": 1.7, "int8": 3.5}, {"fp32": 2.0}, _EIGHT),
        *_pocket("pocket-18m", {"fp32": 3.0, "fp16": 3.0, "int8": 3.0}, {"fp32": 2.0}),
        Item(pair="moshi", name="step", title="LM step", inside=_MOSHI, calls=6),
        Item(
            pair="moshi",
            name="depth",
            title="depth transformer, 8 levels",
            inside="8 levels from a context and a text token that stay, each drawn (top-k 250)",
            calls=8,
            goals={"fp32": 1.6, "int8": 2.2},
        ),
        Item(pair="moshi-3000", name="step", title="LM step", inside=_MOSHI, calls=6),
        Item(
            pair="mimi",
            name="stream1",
            title="streaming decode, 1 frame a call",
            inside=_MIMI.format(", frame by frame"),
            calls=6,
            precisions=FP32,
            goals={"fp32": 2.5},
        ),
        Item(
            pair="mimi",
            name="stream4",
            title="streaming decode, 4 frames a call",
            inside=_MIMI.format(", 4 frames at a time"),
            calls=3,
            frames=4,
            precisions=FP32,
            modes=(PACKAGE_SINGLE,),
        ),
        Item(
            pair="mimi",
            name="offline",
            title="offline decode, 50 frames",
            inside=_MIMI.format(" of a whole clip of 4 s"),
            calls=1,
            frames=50,
            precisions=FP32,
        ),
        *(
            Item(
                pair="musicgen",
                name=f"step-b{batch}",
                title=f"decoder step, batch {batch}",
                inside="one step of all rows: 4 embeddings, decoder without cross-attention, 4 "
                "heads, drawing (top-k 250); 256 positions are in the cache; no codec",
                calls=12,
                goals={"fp32": goal},
            )
            for batch, goal in ((1, 1.5), (2, 2.0))
        ),
    )
}
