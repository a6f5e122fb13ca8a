"""What does an ear hear? Real music, spoiled step by step, and how far each embedding says it is.

Of each work of the music corpus's test split two stretches are taken, two draws of the same music.
The first ones are the reference. The second ones are compared with them as they are, and spoiled by
each dose of each ladder. A dose is heard where it takes them further from the reference than they
are themselves: where the paired difference of the distances has a 95 % interval above zero,
jackknifed over works. It takes some ten minutes of one core:

    calm-bench data music && python benchmarks/ears.py
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from calm_bench.core.audio import read_audio, resample
from calm_bench.core.cache import ArrayCache
from calm_bench.core.paths import home
from calm_bench.metrics.embedded import EmbeddingMetric
from calm_bench.metrics.fad import FadMetric
from calm_bench.metrics.kad import KadMetric
from calm_bench.seeds import derive_seed
from calm_bench.types import Clip, Estimate, Wave

EMBEDDINGS = ("musicnn", "notes", "notes-drift", "mel", "whisper")
RATE, SECONDS = 16_000, 9
REFERENCE_AT, SPOILED_AT, ROOM = 2, 12, 14  # seconds; a transposition takes more than it leaves
DOCS = Path(__file__).resolve().parent.parent / "docs"
Spoil = Callable[[Wave, int], Wave]
"""A wave with room behind its 9 s, and a seed, to what is heard of it."""
Heard = dict[str, Estimate]


def noise(wave: Wave, seed: int, *, snr: float) -> Wave:
    """White noise `snr` dB below the music."""
    drawn = np.random.default_rng(seed).standard_normal(len(wave))
    return wave + drawn * np.sqrt(np.square(wave).mean()) * 10 ** (-snr / 20)


def low_pass(wave: Wave, seed: int, *, hz: float) -> Wave:
    """Nothing above a frequency."""
    spectrum = np.fft.rfft(wave)
    spectrum[np.fft.rfftfreq(len(wave), 1 / RATE) > hz] = 0
    return np.fft.irfft(spectrum, len(wave))


def clipping(wave: Wave, seed: int, *, db: float) -> Wave:
    """Cut off `db` below the peak, and as loud as before."""
    limit = np.abs(wave).max() * 10 ** (-db / 20)
    cut = np.clip(wave, -limit, limit)
    return cut * np.sqrt(np.square(wave).mean() / np.square(cut).mean())


def level(wave: Wave, seed: int, *, db: float) -> Wave:
    """Quieter by `db`."""
    return wave * 10 ** (-db / 20)


def backwards(wave: Wave, seed: int, *, seconds: float) -> Wave:
    """Each stretch of so many seconds played backwards where it stands."""
    return np.concatenate([part[::-1] for part in _parts(wave, seconds)])


def shuffled(wave: Wave, seed: int, *, seconds: float) -> Wave:
    """Stretches of so many seconds in another order."""
    parts = _parts(wave, seconds)
    return np.concatenate([parts[i] for i in np.random.default_rng(seed).permutation(len(parts))])


def repeated(wave: Wave, seed: int, *, seconds: float) -> Wave:
    """The first so many seconds over and over."""
    return np.resize(wave[: round(seconds * RATE)], SECONDS * RATE)


def transposed(wave: Wave, seed: int, *, semitones: float) -> Wave:
    """Played faster: by resampling, so that tempo and timbre go up with the pitch."""
    return resample(wave, round(RATE * 2 ** (semitones / 12)), RATE)


def _parts(wave: Wave, seconds: float) -> list[Wave]:
    whole, size = wave[: SECONDS * RATE], round(seconds * RATE)
    return [whole[at : at + size] for at in range(0, len(whole), size)]


LADDERS: dict[str, tuple[Callable[..., Wave], str, str, tuple[float, ...]]] = {
    "noise": (noise, "snr", "dB below the music", (40, 20, 0)),
    "low-pass": (low_pass, "hz", "Hz", (6000, 3000, 1000)),
    "clipping": (clipping, "db", "dB below the peak", (6, 12, 24)),
    "level": (level, "db", "dB quieter", (3, 6, 12)),
    "backwards": (backwards, "seconds", "s at a time", (0.25, 1, 9)),
    "shuffled": (shuffled, "seconds", "s at a time", (3, 1, 0.25)),
    "repeated": (repeated, "seconds", "s over and over", (4.5, 2.25, 1.125)),
    "transposed": (transposed, "semitones", "semitones up", (1, 3, 6)),
}
"""What is done, what its dose is called in code and in words, and the doses, the weakest first."""


def works(corpus: Path, n: int) -> Iterator[tuple[str, Path]]:
    """The first recording of each of the first `n` works of the test split that last long enough.

    Raises:
        SystemExit: If there are fewer.
    """
    found: dict[str, Path] = {}
    for line in (corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        if item["split"] == "test" and item["seconds"] >= SPOILED_AT + ROOM:
            found.setdefault(item["work"], corpus / item["audio"])
    if len(found) < n:
        raise SystemExit(f"{corpus} has {len(found)} works of {SPOILED_AT + ROOM} s, not {n}")
    yield from list(found.items())[:n]


def clip_of(work: str, name: str, wave: Wave) -> Clip:
    """The first 9 s of a wave as a clip of a work."""
    samples = np.asarray(wave[: SECONDS * RATE], dtype=np.float32)
    return Clip(
        clip_id=f"{name} {work}", prompt_id=work, seed_index=0, wave=samples, sample_rate=RATE
    )


def rungs() -> Iterator[tuple[str, float, Spoil]]:
    """Every dose of every ladder."""
    for name, (spoil, argument, _, doses) in LADDERS.items():
        for dose in doses:
            yield name, dose, partial(spoil, **{argument: dose})


def measure(metric: EmbeddingMetric, music: dict[str, Wave]) -> dict[tuple[str, float], Estimate]:
    """How much further than the second draw itself each dose of it is from the first.

    Under ("draws", 0) the distance of the two draws.
    """
    first, second = (
        [clip_of(work, str(at), wave[at * RATE :]) for work, wave in music.items()]
        for at in (REFERENCE_AT, SPOILED_AT)
    )
    found = {("draws", 0.0): _distance(metric, second, first)}
    for name, dose, spoil in rungs():
        spoiled = [
            clip_of(work, f"{name} {dose}", spoil(wave[SPOILED_AT * RATE :], derive_seed(work)))
            for work, wave in music.items()
        ]
        found[name, dose] = _distance(metric, spoiled, first, second)
    return found


def _distance(
    metric: EmbeddingMetric,
    clips: list[Clip],
    reference: list[Clip],
    than: list[Clip] | None = None,
) -> Estimate:
    """The distance of clips from a reference, or by how much it exceeds that of others."""
    if isinstance(metric, FadMetric):  # without its limit, which takes most of the time
        return metric.distance(clips, reference, than)
    if than is None:
        return metric.score(clips, reference).estimates[metric.name]
    return metric.difference(clips, than, reference)[metric.name]


def heard(estimate: Estimate) -> bool:
    """Whether a dose takes the music further than a second draw of it is."""
    return estimate.low is not None and estimate.low > 0


def table(found: dict[str, dict[tuple[str, float], Estimate]], ears: list[str]) -> Iterator[str]:
    """For each dose the excess over two draws in multiples of what FAD says of those; and KAD's."""
    yield "| | dose | " + " | ".join(ears) + " |"
    yield "|---|---|" + "--:|" * len(ears)
    for name, dose, _ in rungs():
        cells = []
        for ear in ears:
            fad, kad = (found[f"{metric} {ear}"] for metric in ("fad", "kad"))
            ratio = 1 + (fad[name, dose].value or 0) / (fad["draws", 0].value or np.nan)
            signs = ("F" if heard(fad[name, dose]) else "") + (
                "K" if heard(kad[name, dose]) else ""
            )
            cells.append(f"×{ratio:.2f} **{signs}**" if signs else f"×{ratio:.2f}")
        yield f"| {name} | {dose:g} {LADDERS[name][2]} | " + " | ".join(cells) + " |"


def first_heard(
    found: dict[str, dict[tuple[str, float], Estimate]], ears: list[str]
) -> Iterator[str]:
    """For each ladder the smallest dose that FAD or KAD through each embedding hears."""
    yield "| | " + " | ".join(ears) + " |"
    yield "|---|" + "---|" * len(ears)
    for name, (_, _, unit, doses) in LADDERS.items():
        cells = []
        for ear in ears:
            both = (found[f"fad {ear}"], found[f"kad {ear}"])
            loud = [dose for dose in doses if any(heard(one[name, dose]) for one in both)]
            cells.append(f"{loud[0]:g}" if loud else "—")
        yield f"| {name} ({unit}) | " + " | ".join(cells) + " |"


def _bases(found: dict[str, dict[tuple[str, float], Estimate]], ears: list[str]) -> str:
    bases = {ear: found[f"fad {ear}"]["draws", 0].value for ear in ears}
    return ", ".join(
        f"{ear} {'—' if base is None else f'{base:.3g}'}" for ear, base in bases.items()
    )


def draw(found: dict[str, dict[tuple[str, float], Estimate]], ears: list[str]) -> None:
    """FAD of each dose in multiples of that of two draws, a panel for each ladder."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.4), dpi=100, layout="constrained")
    panels = figure.subplots(2, 4, sharey=True).flat
    for panel, (name, (_, _, unit, doses)) in zip(panels, LADDERS.items(), strict=True):
        for index, ear in enumerate(ears):
            fad = found[f"fad {ear}"]
            base = fad["draws", 0].value or np.nan
            y = [1 + (fad[name, dose].value or 0) / base for dose in doses]
            panel.plot(range(len(doses)), y, color=f"C{index}", label=ear, linewidth=1)
            for x, dose in enumerate(doses):
                fill = f"C{index}" if heard(fad[name, dose]) else "white"
                panel.plot([x], [y[x]], "o", color=f"C{index}", markerfacecolor=fill, markersize=4)
        panel.axhline(1, color="0.6", linewidth=0.8)
        panel.set(yscale="log", title=name, xlabel=unit)
        panel.set_xticks(range(len(doses)), [f"{dose:g}" for dose in doses])
    figure.axes[0].set_ylabel("FAD / two draws")
    figure.axes[4].set_ylabel("FAD / two draws")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.savefig(DOCS / "ears.png")


def main() -> None:
    """Measure, and write docs/ears.md and its figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=home() / "data" / "music")
    parser.add_argument("--works", type=int, default=16)
    parser.add_argument("--doses", type=int, default=3, help="only so many, the strongest")
    parser.add_argument("--ears", nargs="+", default=list(EMBEDDINGS))
    parser.add_argument("--embed-only", action="store_true", help="fill the cache of vectors")
    options = parser.parse_args()
    for name, (*what, doses) in LADDERS.items():
        LADDERS[name] = (*what, doses[-options.doses :])
    music = {
        work: read_audio(path, sample_rate=RATE)[0]
        for work, path in works(options.corpus, options.works)
    }
    found = {
        f"{kind.name} {ear}": measure(kind(ear, ArrayCache("vectors")), music)
        for ear in options.ears
        for kind in (FadMetric, KadMetric)
    }
    few = f"Of each ladder only the strongest {options.doses} of its doses were tried."
    lines = [few, ""] if options.doses < 3 else []
    lines += [f"{options.works} works; FAD of two draws: {_bases(found, options.ears)}.", ""]
    lines += [*first_heard(found, options.ears), "", *table(found, options.ears)]
    lines += ["", "![FAD against the dose, a panel for each ladder](ears.png)"]
    sys.stdout.write("\n".join(lines) + "\n")
    if not options.embed_only:
        page = (DOCS / "ears.md").read_text(encoding="utf-8")
        start, end = "<!-- ladders -->\n", "\n<!-- /ladders -->"
        head, tail = page.partition(start)[0], page.partition(end)[2]
        (DOCS / "ears.md").write_text(f"{head}{start}{chr(10).join(lines)}{end}{tail}", "utf-8")
        draw(found, options.ears)


if __name__ == "__main__":
    main()
