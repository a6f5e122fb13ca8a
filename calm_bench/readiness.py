"""What a benchmark names and is not here: models, weights and prompts."""

from calm_bench import paths
from calm_bench.config import BenchmarkSpec, load_model_config
from calm_bench.errors import BenchError, UnknownNameError


def missing_models(spec: BenchmarkSpec) -> list[str]:
    """The systems and codecs of a benchmark that have no folder."""
    return [name for name in _models(spec) if _state(name) == "missing"]


def lacking(spec: BenchmarkSpec) -> str | None:
    """In a few words what must come before the benchmark can run; None if nothing does."""
    states = {name: _state(name) for name in _models(spec)}
    parts = []
    for state, words in (("missing", "models"), ("untrained", "weights of")):
        if names := [name for name, found in states.items() if found == state]:
            parts.append(f"{words} {', '.join(names)}")
    if not (paths.benchmarks_dir() / spec.prompts).is_file():
        parts.append(spec.prompts)
    return "lacks " + "; ".join(parts) if parts else None


def _models(spec: BenchmarkSpec) -> list[str]:
    names = [row.model for row in spec.systems]
    return list(dict.fromkeys([*names, *(row.model for row in spec.codecs.values())]))


def _state(name: str) -> str:
    try:
        config, folder = load_model_config(name)
    except UnknownNameError:
        return "missing"
    except BenchError:
        return "broken"  # whoever loads it says how; `doctor` does
    untrained = config.weights is not None and not (folder / config.weights.file).is_file()
    return "untrained" if untrained else "ready"
