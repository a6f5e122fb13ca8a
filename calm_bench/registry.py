"""Names of systems, codecs, text models, metrics and embeddings, each loaded when asked for.

A built-in is one line here; another package adds its own through the entry point groups
`calm_bench.systems`, `calm_bench.codecs`, `calm_bench.metrics` and `calm_bench.embeddings`. Built-
in names win.
"""

import ast
import importlib
import re
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from calm_bench.errors import BenchError, UnknownNameError

Kind = Literal["system", "codec", "text", "metric", "embedding"]

SYSTEMS = {
    "calm": "calm_bench.systems.calm:CalmSystem",
    "moshi": "calm_bench.systems.moshi:MoshiSystem",
    "musicgen": "calm_bench.systems.musicgen:MusicGenSystem",
    "musicgen-released": "calm_bench.systems.musicgen_released:ReleasedMusicGen",
    "pocket-tts": "calm_bench.systems.pocket_tts:PocketSystem",
    "rq": "calm_bench.systems.rq:RqSystem",
}

CODECS = {
    "vae": "calm_bench.codecs.vae:VaeCodec",
    "rvq": "calm_bench.codecs.rvq:RvqCodec",
}
TEXTS = {
    "transformer": "calm_bench.systems.text:TextModel",
}
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
        BenchError: If a plug-in names a module or attribute that does not exist.
    """
    path = target(kind, name)
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        if name in _BUILT_IN[kind]:
            raise
        raise BenchError(
            f"the plug-in {kind} {name!r} ({path}) cannot be loaded: {error}"
        ) from error


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


def declares(kind: Kind, name: str, attribute: str) -> bool:
    """Whether a class says in its own body that an attribute is True, without importing it."""
    try:
        found = source(kind, name)
    except (ModuleNotFoundError, OSError):
        return False
    written = re.compile(rf"{attribute}(: [^=]+)? = True")
    return any(written.fullmatch(ast.unparse(node)) for node in (found.body if found else ()))
