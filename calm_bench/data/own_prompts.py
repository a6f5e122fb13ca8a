"""The user's own recordings as prompts: sound files, folders of them, and lists with texts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from calm_bench.config import BenchmarkSpec, PromptSpec
from calm_bench.core.audio import probe_audio, readable
from calm_bench.core.recordings import SUFFIXES, amount, few
from calm_bench.data.alignment import leaves_speech_out, left_out_note
from calm_bench.data.layouts import find_recordings
from calm_bench.data.prompts import load_prompt
from calm_bench.data.sources import Candidate, without_suffix
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash, file_hash


def find_candidates(sources: Iterable[Path]) -> tuple[list[Candidate], list[str]]:
    """The recordings of files, folders and lists, each once, and what has to be said of them.

    Raises:
        InputError: If a folder or list holds no recordings, or is not what it looks like.
    """
    found: dict[tuple[object, ...], Candidate] = {}
    notes: list[str] = []
    for source in (path.resolve() for path in sources):
        if _is_sound(source):
            listed = [Candidate(id=without_suffix(source.name), path=source, typed=True)]
        else:
            inside = find_recordings(source, split=False)
            listed = inside.recordings
            notes += (f"{source.name}: {note}" for note in inside.notes)
        for one in listed:
            key = (one.path, one.start, one.seconds, one.text)
            found[key] = one if one.typed else found.get(key, one)
    return list(found.values()), notes


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPrompts:
    """Prompts of the user's, what to know about them, and why other recordings are none."""

    prompts: tuple[PromptSpec, ...]
    notes: tuple[str, ...]
    unusable: tuple[str, ...]


def own_prompts(candidates: Sequence[Candidate], spec: BenchmarkSpec, root: Path) -> OwnPrompts:
    """Prompts named by file and content, each once, their words up to the end of a clip.

    Of what a folder or a list holds, a recording that cannot be used is left out. One that was
    named itself is taken as it is: whoever reads it refuses it.

    Raises:
        InputError: If none can be used, or a recording is only a stretch of its file.
    """
    if cut := [c for c in candidates if c.start is not None]:
        raise InputError(
            f"recordings{_where(cut[0])} are stretches of longer files, which `calm-bench data "
            f"folder` and `data prompts` cut: {few([str(c.path) for c in cut])}"
        )
    known: dict[str, PromptSpec] = {}
    twice, unusable, partly = [], [], []
    for one in candidates:
        try:
            content, prompt = _prompt(one, spec.seconds)
            if not one.typed:
                loaded = load_prompt(prompt, spec, root)
                words, wave, rate = loaded.words, loaded.wave, loaded.sample_rate
                if words is not None and leaves_speech_out(words, wave, rate):
                    partly.append(prompt.audio)
        except InputError as error:
            unusable.append(str(error))
            continue
        if known.setdefault(content, prompt) is not prompt:
            twice.append(f"{prompt.audio} (of {known[content].audio})")
    lost = f"{len(unusable)} of {amount(len(candidates), 'recording')}{_where(candidates[0])} "
    lost += f"cannot be used and {'is' if len(unusable) == 1 else 'are'} left out: {few(unusable)}"
    if not known:
        raise InputError(lost)
    notes = [lost] if unusable else []
    notes += [f"copies of other recordings are left out: {few(twice)}"] if twice else []
    notes += left_out_note(partly)
    return OwnPrompts(prompts=tuple(known.values()), notes=tuple(notes), unusable=tuple(unusable))


def _where(one: Candidate) -> str:
    return f", which {one.listed} lists," if one.listed else ""


def text_note(prompts: Sequence[PromptSpec], recognizer: str | None) -> Iterator[str]:
    """How words get their times that came without."""
    texts = [prompt.id for prompt in prompts if prompt.text and prompt.words is None]
    if texts:
        how = f"what {recognizer} hears times them" if recognizer else "their length times them"
        n = amount(len(prompts), "prompt")
        yield f"texts without times: those of {len(texts)} of {n}; {how}"


def _is_sound(path: Path) -> bool:
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        return path.is_file()
    try:
        return probe_audio(path).seconds > 0
    except InputError:
        return False


def _prompt(one: Candidate, seconds: float) -> tuple[str, PromptSpec]:
    """A hash of what is heard and said in a recording, and the prompt that it is."""
    with readable(one.path):
        sha256 = file_hash(one.path)
    known = [one.text, one.words]
    # Another text makes another prompt: what was said of a clip is kept under its id.
    digest = content_hash(sha256, *known) if any(known) else sha256
    own = without_suffix(one.path.name)
    names = (_plain(own), _plain(one.id))  # an id may be the whole path
    name = names[0] if names[1].endswith(names[0]) else names[1]
    words = None if one.words is None else tuple(w for w in one.words if w[1] < seconds)
    prompt = PromptSpec(
        id=f"{name[:48]}-{digest[:6]}",
        audio=str(one.path),
        sha256=sha256,
        group=one.work,
        text=one.text,
        words=words,
    )
    return digest, prompt


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
