"""The user's own recordings as prompts: sound files, folders of them, and lists with texts."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from calm_bench.config import PromptSpec
from calm_bench.core.audio import probe_audio
from calm_bench.core.recordings import SUFFIXES, few
from calm_bench.data.layouts import find_recordings
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
            listed = [Candidate(id=without_suffix(source.name), path=source)]
        else:
            inside = find_recordings(source, split=False)
            listed = inside.recordings
            notes += (f"{source.name}: {note}" for note in inside.notes)
        for one in listed:
            found.setdefault((one.path, one.start, one.seconds, one.text), one)
    return list(found.values()), notes


def own_prompts(
    candidates: Sequence[Candidate], seconds: float
) -> tuple[list[PromptSpec], list[str]]:
    """Prompts named by file and content, their words up to the end of a clip, and what to know.

    Raises:
        InputError: If a recording is missing, or is only a stretch of its file.
    """
    for what, lost in (
        ("do not exist", [c for c in candidates if not c.path.is_file()]),
        (
            "are stretches of longer files, which `calm-bench data folder` and `data prompts` cut",
            [c for c in candidates if c.start is not None],
        ),
    ):
        if lost:
            where = f", which {lost[0].listed} lists," if lost[0].listed else ""
            raise InputError(f"recordings{where} {what}: {few([str(c.path) for c in lost])}")
    own: dict[str, PromptSpec] = {}
    made = list(_prompts(candidates, seconds))
    twice = [prompt.audio for prompt in made if own.setdefault(prompt.id, prompt) is not prompt]
    notes = [f"copies of another recording of the same name are left out: {few(twice)}"]
    return list(own.values()), notes if twice else []


def text_note(prompts: Sequence[PromptSpec], recognizer: str | None) -> Iterator[str]:
    """How words get their times that came without."""
    texts = [prompt.id for prompt in prompts if prompt.text and prompt.words is None]
    if texts:
        how = f"what {recognizer} hears times them" if recognizer else "their length times them"
        yield f"the texts of {len(texts)} of {len(prompts)} prompts come without times: {how}"


def _is_sound(path: Path) -> bool:
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        return path.is_file()
    try:
        return probe_audio(path).seconds > 0
    except InputError:
        return False


def _prompts(candidates: Iterable[Candidate], seconds: float) -> Iterator[PromptSpec]:
    for one in candidates:
        sha256 = file_hash(one.path)
        known = [one.text, one.words]
        # Another text makes another prompt: what was said of a clip is kept under its id.
        digest = content_hash(sha256, *known) if any(known) else sha256
        own = without_suffix(one.path.name)
        names = (_plain(own), _plain(one.id))  # an id may be the whole path
        name = names[0] if names[1].endswith(names[0]) else names[1]
        words = None if one.words is None else tuple(w for w in one.words if w[1] < seconds)
        yield PromptSpec(
            id=f"{name[:48]}-{digest[:6]}",
            audio=str(one.path),
            sha256=sha256,
            group=one.work,
            text=one.text,
            words=words,
        )


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
