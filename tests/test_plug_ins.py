"""Plug-ins that are wrong: each is one line that names it, its file and line, and no number."""

import re
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import clip_of

from calm_bench import registry
from calm_bench.config import load_model_config
from calm_bench.contracts import verify
from calm_bench.core.cache import MemoryCache
from calm_bench.embeddings.vectors import ClipEmbedder
from calm_bench.errors import BenchError, InputError, UnknownNameError
from calm_bench.metrics.base import score_row
from calm_bench.plan.overrides import Overrides
from calm_bench.plan.plan import expand
from calm_bench.run import run, score_run
from calm_bench.store.records import TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.systems.calm import CalmSystem
from calm_bench.systems.loading import load_system
from calm_bench.types import Clip, SamplingParams

HEAD = """
from typing import ClassVar
import numpy as np
import torch
from calm_bench.codecs.vae import VaeCodec
from calm_bench.embeddings.base import Embedding
from calm_bench.metrics.base import Metric
from calm_bench.systems.base import System
from calm_bench.systems.calm import CalmSystem
from calm_bench.types import Column, Estimate, MetricResult
"""
METRIC = """
class Wrong(Metric):
    name = "wrong"
    scope = "clip"
    columns = (Column.of("wrong", "Wrong", ""),)
    recipe = {"version": 1}

    def score(self, clips, reference):
        return MetricResult(clips={c.clip_id: {"wrong": 1.0} for c in clips})
"""
EMBEDDING = """
class Wrong(Embedding):
    name = "wrong"
    version = "1"
    sample_rate = 16000
    dim = 2
    min_seconds = 0.1
    recipe = {}

    def embed(self, waves):
        return [np.ones((3, 2), np.float32) for _ in waves]
"""
SYSTEM = """
class Wrong(CalmSystem):
    pass
"""
CODEC = """
class Wrong(VaeCodec):
    pass
"""
WHOLE = {"metric": METRIC, "embedding": EMBEDDING, "system": SYSTEM, "codec": CODEC}
NUMBERS = count()
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Registers a class `Wrong` of a kind as `wrong`, whose source is the whole one changed."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(kind: str, old: str = "", new: str = "") -> Path:
        file = tmp_path / f"theirs{next(NUMBERS)}.py"
        assert old in WHOLE[kind]
        file.write_text(HEAD + WHOLE[kind].replace(old, new, 1))
        point = EntryPoint("wrong", f"{file.stem}:Wrong", f"calm_bench.{kind}s")
        monkeypatch.setattr(
            registry, "entry_points", lambda group: [point] * (group == point.group)
        )
        registry._targets.cache_clear()
        return file

    yield installed
    registry._targets.cache_clear()


@pytest.mark.parametrize("kind", WHOLE)
def test_the_whole_ones_are_loaded(install: Install, kind: Any) -> None:
    install(kind)
    assert registry.load(kind, "wrong").__name__ == "Wrong"


def numbers(folder: Path) -> dict[str, set[str]]:
    """The columns of a run's results, and through which embeddings each was seen."""
    results, found = RunStore(folder).read_results(), dict[str, set[str]]()
    for value in results.rows:
        recipe = results.recipes.get(value.recipe_id or "", {})
        found.setdefault(value.metric, set()).add(str(recipe.get("embedding", "")))
    return found


def test_a_run_takes_other_measures_and_a_finished_one_takes_more(
    install: Install, tmp_path: Path
) -> None:
    install("metric")
    folder, asked = tmp_path / "run", {"temperatures": (1.0,), "latency": False}
    run(expand("smoke", Overrides(metrics=("wrong",), **asked)), out=folder, device="cpu")
    assert "wrong" in numbers(folder)
    assert "loudness" not in numbers(folder)
    run(expand("smoke", Overrides(**asked)), out=folder, device="cpu")
    own = numbers(folder)
    assert {"loudness", "mel_distance"} <= own.keys()
    results = score_run(folder, metrics=["wrong"]).results
    assert numbers(folder) == {**own, "wrong": {""}}
    assert results.table == ("loudness", "silence_share", "mel_distance", "wrong")
    assert numbers(score_run(folder).folder).keys() == {*own, "wrong"}  # it has become the run's
    with pytest.raises(UnknownNameError, match="unknown metric 'wrnog'; did you mean wrong"):
        score_run(folder, metrics=["wrnog"])


def test_an_embedding_of_ones_own_is_looked_through(install: Install, tmp_path: Path) -> None:
    install("embedding")
    asked = {"temperatures": (1.0,), "latency": False, "n_prompts": 2}
    with pytest.raises(InputError, match="none of the metrics loudness, fidelity looks through"):
        expand("smoke", Overrides(embeddings=("wrong",), **asked))
    folder = tmp_path / "run"
    plan = expand("smoke", Overrides(metrics=("kad",), embeddings=("wrong",), **asked))
    run(plan, out=folder, device="cpu")
    assert numbers(folder)["kad"] == {"wrong"}
    with pytest.raises(UnknownNameError, match="unknown embedding 'mle'; did you mean mel"):
        score_run(folder, embeddings=["mle"])
    score_run(folder, embeddings=["mel"])
    assert numbers(folder)["kad"] == {"wrong", "mel"}


ONE = 'Column.of("wrong", "Wrong", "")'
PASS, INIT = "    pass", "    def __init__(self, config"
AT_LOAD = {
    "no module": ("metric", "", "import nowhere_at_all\n", "No module named 'nowhere_at_all'"),
    "no syntax": ("metric", "scope =", "scope is =", "SyntaxError"),
    "raises at import": ("metric", "", "raise KeyError('foo')\n", "KeyError: 'foo'"),
    "no class of that name": ("system", "class Wrong", "class Right", "has no attribute 'Wrong'"),
    "no system": ("system", "(CalmSystem)", "", "it is no subclass of calm_bench.systems.base.Sys"),
    "no class": ("metric", "class Wrong", "def Wrong(): pass\nclass Other", "it is no subclass of"),
    "another name": ("metric", '"wrong"\n', '"right"\n', "its name is 'right', but its entry"),
    "an embedding's other name": ("embedding", '"wrong"', '"right"', "its name is 'right'"),
    "no scope": ("metric", 'scope = "clip"', 'scope = "clips"', "scope is 'clips'"),
    "no columns": ("metric", f"({ONE},)", "()", "it has no columns"),
    "a list of columns": ("metric", f"({ONE},)", '["wrong"]', "columns is"),
    "another's column": ("metric", 'of("wrong"', 'of("wer"', "a column is called wer, as one"),
    "a column of no field": ("metric", ONE, ONE[:-1] + ', "a", "b")', "names 2 fields, not 1"),
    "an unknown need": ("metric", "    scope", "    needs = {'ears'}\n    scope", "needs is"),
    "score takes little": ("metric", "(self, clips, reference)", "(self, clips)", "score(self, c"),
    "no recipe": ("metric", '    recipe = {"version": 1}\n', "", "it lacks recipe"),
    "a metric made with more": (
        *("metric", "    def score", "    def __init__(self, a): ...\n    def score"),
        "Wrong() cannot be called: missing a required argument: 'a'",
    ),
    "no width": ("embedding", "    dim = 2\n", "", "it lacks dim"),
    "no rate": ("embedding", "16000", '"16 kHz"', "sample_rate is '16 kHz'"),
    "no temperature": ("system", PASS, "    temperature_kind = 'warm'", "temperature_kind is 'wa"),
    "no architecture": ("system", PASS, "    Architecture = dict", "Architecture is <class 'dict"),
    "a system made with less": ("system", PASS, f"{INIT}): ...", "Wrong(config, codec=…, folder"),
    "a codec made with more": ("codec", PASS, f"{INIT}, a): ...", "Wrong(config) cannot be called"),
    "a codec of nothing": ("codec", PASS, "    continuous = 'yes'", "continuous is 'yes'"),
    "an abstract system": ("system", "CalmSystem)", "System)", "it lacks backbone_step, finish"),
}


@pytest.mark.parametrize("case", AT_LOAD)
def test_what_is_wrong_with_a_class_is_said_as_it_is_loaded(install: Install, case: str) -> None:
    kind, old, new, words = AT_LOAD[case]
    file = install(kind, old, new)
    with pytest.raises(BenchError) as caught:
        registry.load(kind, "wrong")  # type: ignore[arg-type]
    line = str(caught.value)
    assert line.startswith(f"the plug-in {kind} 'wrong' (")
    assert words in line
    assert "\n" not in line
    where = file.stem if "no class" in case else f"{file}:"
    assert where in line


def clip(i: int) -> Clip:
    return clip_of(np.full(16000, 0.1 + i), f"c{i}", prompt=f"p{i}")


IN_A_ROW = {
    "no result": ("MetricResult(clips=", "dict(clips=", "gave a dict for a MetricResult"),
    "unknown clips": ("c.clip_id: {", "c.prompt_id: {", "clips that it was not given (p0, p1)"),
    "another field": ('"wrong": 1.0', '"right": 1.0', "column wrong of wrong, but gave only right"),
    "no estimates": ("clips={", 'estimates={"a": 1.0}, clips={', "cannot be read"),
    "no fields": ('{"wrong": 1.0}', "1.0", "cannot be read: TypeError"),
    "no estimate": ('"")', '"", aggregate="set")', "gave no estimate of its column wrong"),
}


@pytest.mark.parametrize("case", IN_A_ROW)
def test_a_result_that_is_none_is_refused(install: Install, case: str) -> None:
    old, new, words = IN_A_ROW[case]
    file = install("metric", old, new)
    metric = registry.load("metric", "wrong")()
    with pytest.raises(BenchError) as caught:
        score_row(metric, [clip(0), clip(1)], [])
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"the plug-in metric 'wrong' ({file}:")


def test_an_error_names_the_line_it_came_from(install: Install) -> None:
    file = install(
        "metric", "        return", "        for c in clips: {}[c.prompt_id]\n        return"
    )
    line = file.read_text().splitlines().index("        for c in clips: {}[c.prompt_id]") + 1
    found, _ = score_row(registry.load("metric", "wrong")(), [clip(0)], [])
    assert found.notes["c0"] == f"the plug-in metric 'wrong' ({file}:{line}): KeyError: 'p0'"
    assert found.failed == {"c0"}


@pytest.mark.parametrize(("value", "words"), [("np.nan", "gave wrong as nan"), ("'1'", "as 1")])
def test_what_is_no_number_fails_its_clip_and_none_other(
    install: Install, value: str, words: str
) -> None:
    file = install("metric", "1.0", f"{value} if c.clip_id == 'c0' else 1.0")
    found, _ = score_row(registry.load("metric", "wrong")(), [clip(0), clip(1)], [])
    assert found.failed == {"c0"}
    assert words in found.notes["c0"]
    assert str(file) in found.notes["c0"]
    assert found.clips["c1"] == {"wrong": 1.0}


def test_a_clip_without_a_word_is_noted(install: Install) -> None:
    install("metric", "for c in clips}", "for c in clips[1:]}")
    found, _ = score_row(registry.load("metric", "wrong")(), [clip(0), clip(1)], [])
    assert "gave no wrong and no reason" in found.notes["c0"]
    assert "c1" not in found.notes


@pytest.mark.parametrize(
    ("new", "words"),
    [("(3,)", "shape (3,)"), ("(3, 3)", "shape (3, 3)")],
)
def test_vectors_of_another_shape_are_refused(install: Install, new: str, words: str) -> None:
    file = install("embedding", "(3, 2)", new)
    embedder = ClipEmbedder(registry.load("embedding", "wrong")(), MemoryCache())
    with pytest.raises(BenchError, match="vectors of the shape") as caught:
        list(embedder.embed([clip(0)], {}))
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_fewer_vectors_than_waves_are_refused(install: Install) -> None:
    install("embedding", "for _ in waves]", "for _ in waves[1:]]")
    embedder = ClipEmbedder(registry.load("embedding", "wrong")(), MemoryCache())
    with pytest.raises(BenchError, match=r"gave vectors of 1 waves for 2"):
        list(embedder.embed([clip(0), clip(1)], {}))


# -- systems -----------------------------------------------------------------------------------


@pytest.fixture
def model(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of the system `wrong`, of the shape of calm-debug."""
    _, folder = load_model_config("calm-debug")
    own = tmp_path / "models" / "wrong-debug"
    shutil.copytree(folder, own)
    config = own / "config.yaml"
    config.write_text(config.read_text().replace("type: calm", "type: wrong"))
    monkeypatch.chdir(tmp_path)
    return own


def made(folder: Path) -> list[TrialRecord]:
    plan = expand("smoke", Overrides(systems=("wrong-debug",), n_prompts=2, latency=False))
    run(plan, out=folder, device="cpu")
    return [t for t in RunStore(folder).read(TrialRecord) if t.cell_id.startswith("wrong")]


FINISH = """
    def finish(self, state):
        from dataclasses import replace
        found = super().finish(state)
        return replace(found, wave={})
"""


@pytest.mark.parametrize("wave", ["found.wave[:, :-128]", "torch.cat([found.wave] * 2, 1)"])
def test_a_clip_of_another_length_fails_with_both(
    install: Install, model: Path, tmp_path: Path, wave: str
) -> None:
    install("system", "    pass", FINISH.format(wave))
    trials = made(tmp_path / "run")
    assert {t.status for t in trials} == {"failed"}
    n = 2 if "cat" in wave else 1
    for trial in trials:
        own, asked = map(float, re.findall(r"\d+\.\d+", str(trial.error)))
        assert own == pytest.approx(n * asked if n == 2 else asked - 0.08)


def test_a_system_that_raises_is_a_line_and_its_traceback_is_in_the_log(
    install: Install, model: Path, tmp_path: Path
) -> None:
    new = "    def push(self, state, frame):\n        frame.nothing"
    file = install("system", "    pass", new)
    trials = made(tmp_path / "run")
    error = f"the plug-in system 'wrong' ({file}:14): AttributeError: 'Tensor' object has no"
    assert all(str(t.error).startswith(error) for t in trials), trials[0].error
    log = (tmp_path / "run" / "run.log").read_text()
    assert f'File "{file}", line 14, in push' in log


def frames(system: Any) -> torch.Tensor:
    from calm_bench.systems.base import Prompt

    noise = 0.1 * torch.randn(4 * system.codec.hop_length, generator=torch.manual_seed(0))
    sampling = SamplingParams(temperature=1.0, text_temperature=1.0)
    generators = [torch.Generator().manual_seed(5)]
    found: torch.Tensor = system.generate([Prompt(wave=noise)], sampling, generators, 3).frames
    return found


CHANGED = {
    "new_head": """
    def new_head(self, sampling, batch_size, like):
        head = super().new_head(sampling, batch_size, like)
        return lambda *given: 0.5 * head(*given)
""",
    "frame_input": """
    def frame_input(self, frame, text):
        return 2 * super().frame_input(frame, text)
""",
    "head": """
    def head(self, state, z, at):
        return 0.5 * super().head(state, z, at)
""",
    "mlp": """
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        class Louder(type(self.mlp)):
            def velocity(self, *given):
                return 2 * super().velocity(*given)
        Louder.__module__ = "theirs"
        self.mlp.__class__ = Louder
""",
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_subclass_generates_by_its_own_methods_and_says_so_once(
    install: Install, model: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    install("system", "    pass", CHANGED[what])
    plain, fast = load_system(str(model), mode="plain"), load_system(str(model))
    load_system(str(model))
    close = torch.testing.assert_close
    close(frames(plain), frames(fast), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(frames(fast), frames(load_system("calm-debug")), atol=1e-3)
    said = [r.message for r in caplog.records if "has no flat step" in r.message]
    assert len(said) == (what != "head"), said  # what no flat step stands for is kept
    assert all(f"for {what} of its own" in line for line in said)


@pytest.mark.parametrize(
    ("new", "fails"),
    [
        ("", {}),
        (
            """
    def draw(self, n_frames, sampling, generator):
        return torch.randn_like(super().draw(n_frames, sampling, generator))
""",
            {"The seed decides": "global generator", "A row does not": "", "Temperature 0": "two"},
        ),
        (
            """
    def decode_step(self, frame, state):
        return super().decode_step(frame, {})
""",
            {"Streaming": "Mismatched"},
        ),
    ],
)
def test_verify_says_what_a_system_does_not_do(
    install: Install, model: Path, new: str, fails: dict[str, str]
) -> None:
    install("system", "    pass", new or "    pass")
    found = {each.sentence: each.fault for each in verify(str(model)) if each.fault}
    assert len(found) == len(fails), found
    for sentence, words in fails.items():
        (fault,) = (text for name, text in found.items() if name.startswith(sentence))
        assert words in str(fault)


def test_verify_names_the_file_of_a_part_whose_code_was_not_reached(
    install: Install, model: Path
) -> None:
    file = install("system", "    pass", "    finish = None")
    faults = [each.fault for each in verify(str(model)) if each.fault]
    assert len(faults) >= 5
    for fault in faults:
        assert re.match(
            rf"the plug-in system 'wrong' \({re.escape(str(file))}:\d+\): TypeError", fault
        )


def test_our_own_keep_their_flat_step() -> None:
    for name in ("calm-debug", "rq-debug", "musicgen-debug"):
        assert load_system(name).steps is not None, name
    assert CalmSystem.flat_for[-1] == "read_window"
