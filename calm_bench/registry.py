"""Names of systems, codecs, text models, metrics and embeddings, each loaded when asked for.

A built-in is one line here; another package adds its own through the entry point groups
`calm_bench.systems`, `calm_bench.codecs`, `calm_bench.metrics` and `calm_bench.embeddings`. Built-
in names win. A class of another package is held against what its kind declares as it is loaded, so
that what can be known to be wrong is known before anything is made.
"""

import ast
import importlib
import inspect
import re
import traceback
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from calm_bench.errors import PLUG_INS, BenchError, UnknownNameError, describe
from calm_bench.types import problem

Kind = Literal["system", "codec", "text", "metric", "embedding"]

SYSTEMS = {
    "calm": "calm_bench.systems.calm:CalmSystem",
    "moshi": "calm_bench.systems.moshi:MoshiSystem",
    "musicgen": "calm_bench.systems.musicgen:MusicGenSystem",
    "musicgen-released": "calm_bench.systems.musicgen_released:ReleasedMusicGen",
    "pocket-tts": "calm_bench.systems.pocket_tts:PocketSystem",
    "rq": "calm_bench.systems.rq:RqSystem",
}

CODECS = {"vae": "calm_bench.codecs.vae:VaeCodec", "rvq": "calm_bench.codecs.rvq:RvqCodec"}
TEXTS = {"transformer": "calm_bench.systems.text:TextModel"}
METRICS = {
    "asr_health": "calm_bench.metrics.asr_health:AsrHealth",
    "dnsmos": "calm_bench.metrics.dnsmos:DnsmosMetric",
    "drift": "calm_bench.metrics.drift:DriftMetric",
    "fad": "calm_bench.metrics.fad:FadMetric",
    "fad_over_time": "calm_bench.metrics.fad:FadOverTime",
    "fidelity": "calm_bench.metrics.fidelity:FidelityMetric",
    "kad": "calm_bench.metrics.kad:KadMetric",
    "loudness": "calm_bench.metrics.loudness:LoudnessMetric",
    "perplexity": "calm_bench.metrics.perplexity:Perplexity",
    "perplexity_mistral": "calm_bench.metrics.perplexity:MistralPerplexity",
    "pesq": "calm_bench.metrics.fidelity:PesqMetric",
    "stoi": "calm_bench.metrics.fidelity:StoiMetric",
    "vert": "calm_bench.metrics.vert:Vert",
    "wer": "calm_bench.metrics.wer:WordErrorRate",
}
EMBEDDINGS = {
    "clap": "calm_bench.embeddings.frechet_package:ClapEmbedding",
    "clap-music": "calm_bench.embeddings.frechet_package:ClapMusicEmbedding",
    "encodec": "calm_bench.embeddings.frechet_package:EncodecEmbedding",
    "mel": "calm_bench.embeddings.mel:MelEmbedding",
    "musicnn": "calm_bench.embeddings.musicnn:MusicnnEmbedding",
    "notes": "calm_bench.embeddings.notes:NotesEmbedding",
    "notes-drift": "calm_bench.embeddings.notes:NotesDriftEmbedding",
    "pann": "calm_bench.embeddings.frechet_package:PannEmbedding",
    "vggish": "calm_bench.embeddings.frechet_package:VggishEmbedding",
    "whisper": "calm_bench.embeddings.whisper:WhisperEmbedding",
}

_BUILT_IN: dict[Kind, dict[str, str]] = {
    "system": SYSTEMS,
    "codec": CODECS,
    "text": TEXTS,
    "metric": METRICS,
    "embedding": EMBEDDINGS,
}


_BASES: dict[Kind, str] = {
    "system": "calm_bench.systems.base:System",
    "codec": "calm_bench.codecs.base:Codec",
    "metric": "calm_bench.metrics.base:Metric",
    "embedding": "calm_bench.embeddings.base:Embedding",
}
"""What a class of each kind is; its `ClassVar`s and abstract methods are what it must declare."""


@cache
def _targets(kind: Kind) -> dict[str, str]:
    found = {point.name: point.value for point in entry_points(group=f"calm_bench.{kind}s")}
    return found | _BUILT_IN[kind]


def columns() -> list[Any]:
    """The columns of every registered metric: name, label, unit, and which side is better."""
    return [column for name in names("metric") for column in load("metric", name).columns]


def names(kind: Kind) -> list[str]:
    """All registered names of one kind, sorted."""
    return sorted(_targets(kind))


def target(kind: Kind, name: str) -> str:
    """The `module:attribute` behind a name, without importing it.

    Raises:
        UnknownNameError: If nothing is registered under the name; the message has near names.
    """
    targets = _targets(kind)
    if name not in targets:
        raise UnknownNameError(kind, name, targets)
    return targets[name]


def load(kind: Kind, name: str) -> Any:
    """Import and return the class registered under `name`.

    Raises:
        UnknownNameError: If nothing is registered under the name; the message has near names.
        BenchError: If a plug-in cannot be imported, or is not what its kind declares; the message
            has its file and line.
    """
    path = target(kind, name)
    if name in _BUILT_IN[kind] or kind not in _BASES:
        return _class(path)
    who = f"the plug-in {kind} {name!r}"
    try:
        found = _class(path)
    except Exception as error:
        place = _place(error, path)
        raise BenchError(f"{who} ({place}) cannot be loaded: {describe(error)}") from error
    try:
        file, line = str(inspect.getsourcefile(found)), inspect.getsourcelines(found)[1]
    except (OSError, TypeError):  # it is compiled, or no class
        file, line = path, 0
    if faults := list(_faults(kind, name, found)):
        place = f"{file}:{line}" if line else file
        raise BenchError(f"{who} ({place}) cannot be used: {'; '.join(faults)}")
    PLUG_INS[file, found.__qualname__.partition(".")[0]] = f"{kind} {name!r}", line
    return found


def _class(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _place(error: Exception, path: str) -> str:
    """Where an import failed: the last line of the plug-in's own package."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    package = re.split(r"[.:]", path)[0]
    found = path
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package:
            found = f"{frame.f_code.co_filename}:{line}"
    return found


def _faults(kind: Kind, name: str, found: Any) -> Iterator[str]:
    """What a class lacks to be one of its kind, in words."""
    base = _class(_BASES[kind])
    if not (isinstance(found, type) and issubclass(found, base)):
        yield f"it is no subclass of {_BASES[kind].replace(':', '.')}"
        return
    lacking = sorted(found.__abstractmethods__)  # type: ignore[attr-defined]
    if lacking:
        yield f"it lacks {', '.join(lacking)}"
    for field, hint in vars(base)["__annotations__"].items():
        if get_origin(hint) is ClassVar:
            yield from _wrong_field(found, field, get_args(hint)[0])
    own = getattr(found, "name", name)
    if kind in ("metric", "embedding") and own != name:
        yield f"its name is {own!r}, but its entry point is called {name!r}"
    if kind == "metric" and isinstance(columns := getattr(found, "columns", ()), tuple):
        yield from _wrong_columns([str(getattr(column, "name", "")) for column in columns])
    for method in sorted(base.__abstractmethods__ - {*lacking}):
        if inspect.isfunction(wanted := vars(base).get(method)) and inspect.isfunction(
            given := inspect.getattr_static(found, method)
        ):
            yield from _uncallable(method, given, [*inspect.signature(wanted).parameters], ())
    if not lacking:
        yield from _uncallable(f"{found.__name__}", found, *_made_with(kind, found))


def _wrong_field(found: type, field: str, kind: Any) -> Iterator[str]:
    if not hasattr(found, field):
        yield f"it lacks {field}"
    elif not isinstance(value := getattr(found, field), property):
        try:
            TypeAdapter(kind).validate_python(value, strict=True)
        except ValidationError as error:
            yield f"{field} is {value!r}: {problem(error)}"


def _wrong_columns(own: list[str]) -> Iterator[str]:
    known = {c.name: n for n in METRICS for c in load("metric", n).columns}
    if not own:
        yield "it has no columns"
    for column in own:
        if column in known or own.count(column) > 1:
            yield f"a column is called {column}, as one of {known.get(column, 'its own')} is"


def _made_with(kind: Kind, found: Any) -> tuple[list[str], tuple[str, ...]]:
    """What a class is called with: positional arguments, and keywords."""
    if kind == "system":
        return ["config"], ("folder", "release") if found.brings_codec else ("codec", "folder")
    looks_through = ["embedding", "cache"] if hasattr(found, "embedder") else []
    return ["config"] if kind == "codec" else looks_through, ()


def _uncallable(
    what: str, given: Any, positional: list[str], keywords: tuple[str, ...]
) -> Iterator[str]:
    try:
        inspect.signature(given).bind(*positional, **dict.fromkeys(keywords))
    except TypeError as error:
        call = ", ".join([*positional, *(f"{name}=…" for name in keywords)])
        yield f"{what}({call}) cannot be called: {error}"


def source(kind: Kind, name: str) -> ast.ClassDef | None:
    """The class behind a name as it is written, with nothing heavy imported.

    None if it is written elsewhere, or in no Python: modules of another package may be compiled.

    Raises:
        UnknownNameError: If nothing is registered under the name; the message has near names.
        ModuleNotFoundError: If its module is not there.
        OSError: If its module cannot be read.
    """
    module, _, attribute = target(kind, name).partition(":")
    spec = find_spec(module)
    if spec is None:
        raise ModuleNotFoundError(module)
    origin = spec.origin or ""
    text = Path(origin).read_bytes() if origin.endswith(".py") else b""
    classes = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
    return next((node for node in classes if node.name == attribute), None)


def declares(kind: Kind, name: str, attribute: str, value: object = True) -> bool:
    """Whether a class says in its own body what an attribute is, without importing it."""
    try:
        found = source(kind, name)
    except (ModuleNotFoundError, OSError):
        return False
    written = re.compile(rf"{attribute}(: [^=]+)? = {value!r}")
    return any(written.fullmatch(ast.unparse(node)) for node in (found.body if found else ()))
