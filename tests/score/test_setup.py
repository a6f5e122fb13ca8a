"""Which embeddings a benchmark's metrics look through, and which are left out with a word why."""

import pytest

from calm_bench import registry
from calm_bench.errors import BenchError
from calm_bench.metrics.embedded import EmbeddingMetric
from calm_bench.metrics.fad import Segments
from calm_bench.score.scorer import Setting, setups_of, usable_embeddings


class Blocked:
    """An embedding whose weights are not here."""

    @property
    def recipe(self) -> dict[str, str]:
        raise BenchError("its weights are elsewhere")


def test_an_optional_embedding_that_cannot_be_loaded_leaves_a_note(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = registry.load
    monkeypatch.setattr(
        registry, "load", lambda kind, name: Blocked if name == "vggish" else load(kind, name)
    )
    setting = Setting(embeddings=("mel",), optional=("vggish", "mel"))
    chosen, notes = usable_embeddings(setting)
    assert chosen == ("mel",)
    assert notes == ("no columns with the embedding vggish: its weights are elsewhere",)


def test_set_metrics_come_once_for_each_embedding_and_know_their_segments() -> None:
    setting = Setting(segments=Segments(n=9))
    both = ("mel", "whisper")
    for name in ("fad", "kad", "fad_over_time"):
        found = list(setups_of(name, setting, both))
        assert [setup.embedding for setup in found] == list(both)
        assert all(isinstance(setup.make(), EmbeddingMetric) for setup in found)
    (drift,) = setups_of("drift", setting, both)
    assert sum(column.span is not None for column in drift.make().own_columns) == 2 * 9
    (alone,) = setups_of("fad_over_time", setting, ("mel",))
    assert alone.embedding is None  # one column needs no name
    assert len(alone.make().own_columns) == 9
