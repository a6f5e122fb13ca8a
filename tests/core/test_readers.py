"""Whatever a file holds, its reader takes it or says in one line why not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calm_bench.config import BenchmarkSpec, ModelConfig, PromptSpec, parse, read_yaml
from calm_bench.core import files, paths
from calm_bench.core.cache import ArrayCache, ContentCache
from calm_bench.core.files import json_lines
from calm_bench.data.corpus import read_manifest
from calm_bench.errors import BenchError
from calm_bench.listening.votes import VoteBook
from calm_bench.store.curves import read_curve
from calm_bench.store.records import Manifest, ScoreRecord, TrialRecord
from calm_bench.store.run_store import RunStore
from calm_bench.training.loop import RunLog

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

tried = hypothesis.settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)

plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
    | st.sampled_from(["../x", "a\0b", "C:", "~nobody", "n" * 300, "\ud800"])
)
trees = st.recursive(
    plain,
    lambda part: (
        st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=6), part, max_size=4)
    ),
    max_leaves=12,
)
marks = st.text(alphabet="[]{}:,-&*!?|>'\"#%@ \n\ta0<", max_size=60)
contents = (
    st.binary(max_size=80)
    | marks.map(str.encode)
    | st.text(max_size=40).map(str.encode)
    | trees.map(lambda tree: json.dumps(tree).encode(errors="surrogatepass"))
)


def refusal(read: Callable[[], Any]) -> str:
    """What a reader says against what it was given; nothing if it took it."""
    try:
        found = read()
        if hasattr(found, "__next__"):
            list(found)
    except BenchError as error:
        return str(error)
    return ""


def refused_or_read(read: Callable[[], Any]) -> bool:
    """Whether a reader took what it was given; if not, it has to say so in one line."""
    said = refusal(read)
    assert "\n" not in said
    return not said


READERS: dict[str, Callable[[Path], Any]] = {
    "model.yaml": read_yaml,
    "prompts.jsonl": json_lines,
    "manifest.jsonl": lambda path: read_manifest(path.parent),
    "curve.jsonl": lambda path: read_curve(path.parent),
    "trials.jsonl": lambda path: RunStore(path.parent).read(TrialRecord),
    "scores.jsonl": lambda path: RunStore(path.parent).read(ScoreRecord),
    "manifest.json": lambda path: RunStore(path.parent).read_manifest(),
    "results.json": lambda path: RunStore(path.parent).read_results(),
    "log.jsonl": lambda path: RunLog(path.parent).records(),
    "votes.jsonl": VoteBook.read,
}


@pytest.mark.parametrize("name", READERS)
@hypothesis.given(data=contents)
@tried
def test_a_reader_raises_no_error_but_ours(name: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data + b"\n")
    refused_or_read(lambda: READERS[name](path))


@pytest.mark.parametrize("model", [BenchmarkSpec, ModelConfig, PromptSpec, Manifest])
@hypothesis.given(data=st.data())
@tried
def test_a_record_of_any_fields_is_taken_or_refused(model: Any, data: Any) -> None:
    fields = st.sampled_from([*model.model_fields, "surplus"])
    given = data.draw(st.dictionaries(fields, trees, max_size=6))
    refused_or_read(lambda: parse(model, given, "here"))


TRIAL = TrialRecord(
    trial_id="t",
    cell_id="c",
    prompt_id="p",
    seed_index=0,
    seed=1,
    status="failed",
    error="none",
    prompt_seconds=3.25,
    prompt_text_source="none",
)


@hypothesis.given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@tried
def test_no_changed_bit_of_a_record_is_believed(place: int, bit: int, tmp_path: Path) -> None:
    line = files.sealed(TRIAL.model_dump_json().encode())
    place %= len(line)
    changed = line[:place] + bytes([line[place] ^ 1 << bit]) + line[place + 1 :]
    store = RunStore(tmp_path)
    (tmp_path / "trials.jsonl").write_bytes(changed + b"\n")
    if refused_or_read(lambda: store.read(TrialRecord)):
        assert store.read(TrialRecord) == [TRIAL]


@hypothesis.given(data=contents, place=st.integers(0, 10**6), bit=st.integers(0, 7))
@tried
def test_a_cache_gives_what_was_kept_or_nothing(
    data: bytes, place: int, bit: int, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALM_BENCH_HOME", str(tmp_path))
        value, array = {"a": [1.5, None]}, np.arange(6, dtype=np.float32).reshape(2, 3)
        scores, vectors = ContentCache("scores"), ArrayCache("vectors")
        scores.write("abcd", value)
        vectors.write("abcd", array)
        for path in (scores.path("abcd"), vectors.path("abcd")):
            kept = path.read_bytes()
            at = place % len(kept)
            for other in (data, kept[:at] + bytes([kept[at] ^ 1 << bit]) + kept[at + 1 :]):
                path.write_bytes(other)
                assert scores.read("abcd", dict) in (None, value)
                found = vectors.read("abcd")
                assert found is None or np.array_equal(found, array)
            path.write_bytes(kept)


@hypothesis.given(
    name=st.text(alphabet="ab./\\:~\0\n\x7fé\ud800", max_size=12) | st.text(max_size=9)
)
@tried
def test_a_name_is_a_place_inside_or_refused(name: str, tmp_path: Path) -> None:
    def place() -> None:
        path = paths.inside(tmp_path, name)
        assert path.is_relative_to(tmp_path.resolve())
        path.exists()

    taken = refused_or_read(place)
    if paths.is_part(name):
        assert taken
        assert paths.inside(tmp_path, name).parent == tmp_path.resolve()
