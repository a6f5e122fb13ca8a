"""The adapter of frechet-audio-distance, against a stand-in for the package."""

import importlib.metadata
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from calm_bench.embeddings import frechet_package
from calm_bench.errors import BenchError, MissingExtraError
from calm_bench.types import Wave


class FakeDistance:
    """What the adapter uses of FrechetAudioDistance."""

    loaded = None

    def __init__(self, model_name: str, submodel_name: str, sample_rate: int) -> None:
        sys.stdout.write("chatter that would spoil --json")
        FakeDistance.loaded = (model_name, submodel_name, sample_rate)
        self.forced = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        self.width = {"vggish": 128, "pann": 2048, "encodec": 128, "clap": 512}[model_name]
        self.model = torch.nn.Linear(2, 2)
        torch.nn.init.ones_(self.model.weight)
        torch.nn.init.zeros_(self.model.bias)
        self.heard = []

    def get_embeddings(self, waves: list[Wave], sr: int) -> np.ndarray:
        (wave,) = waves
        self.heard.append(wave)
        if np.isnan(wave).any():
            sys.stdout.write("[Frechet Audio Distance] get_embeddings throw an exception: bad wave")
            return np.concatenate([], axis=0)
        if self.width == 2048:
            return np.zeros(2048)  # the package flattens PANN's single vector
        return np.zeros((3, self.width))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    installed = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "0.3.4" if name == "frechet-audio-distance" else installed(name),
    )
    fake = SimpleNamespace(FrechetAudioDistance=FakeDistance)
    monkeypatch.setitem(sys.modules, "frechet_audio_distance", fake)
    return fake


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is installed, in the environment of the extra."""
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name == "frechet-audio-distance":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def wave(seconds: float, rate: int) -> Wave:
    return np.zeros(round(seconds * rate), dtype=np.float32)


def test_without_the_package_the_extra_is_named(no_package: None) -> None:
    with pytest.raises(MissingExtraError, match=r"calm-bench\[fad\]"):
        frechet_package.EncodecEmbedding().embed([wave(1, 24_000)])
    with pytest.raises(MissingExtraError, match=r"calm-bench\[fad\]"):
        dict(frechet_package.VggishEmbedding().recipe)


def test_vectors_have_the_declared_shape(
    package: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    for cls, n_vectors in (
        (frechet_package.EncodecEmbedding, 3),
        (frechet_package.PannEmbedding, 1),
    ):
        embedding = cls()
        (vectors,) = embedding.embed([wave(9, cls.sample_rate)])
        assert vectors.shape == (n_vectors, cls.dim)
        assert vectors.dtype == np.float32
        assert FakeDistance.loaded[0] == cls.model
        assert FakeDistance.loaded[2] == cls.sample_rate
    assert capsys.readouterr().out == ""


def test_clap_is_given_ten_seconds_at_a_time(package: SimpleNamespace) -> None:
    embedding = frechet_package.ClapMusicEmbedding()
    short, long = embedding.embed([wave(4, 48_000), wave(12.5, 48_000)])
    assert FakeDistance.loaded[1] == "music_audioset"
    assert [len(part) / 48_000 for part in embedding._loaded.heard] == [4.0, 10.0, 10.0, 10.0]
    assert (short.shape, long.shape) == ((3, 512), (9, 512))


def test_what_the_package_swallows_becomes_an_error(package: SimpleNamespace) -> None:
    bad = np.full(24_000, np.nan, dtype=np.float32)
    with pytest.raises(BenchError, match=r"encodec failed: .*bad wave"):
        frechet_package.EncodecEmbedding().embed([bad])


def test_the_hub_is_off_line_for_the_import_alone(
    package: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delitem(sys.modules, "frechet_audio_distance")

    class Importer:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            if name == "frechet_audio_distance":
                seen.append(constants.HF_HUB_OFFLINE)
                raise ModuleNotFoundError(name)  # also where it is installed

    monkeypatch.setattr(sys, "meta_path", [Importer(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError):
        frechet_package.EncodecEmbedding().embed([wave(1, 24_000)])
    assert seen == [True]
    assert constants.HF_HUB_OFFLINE is False


def test_a_failed_download_is_one_line(
    package: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: Any, **kwargs: Any) -> Any:
        raise OSError("Name or service not known\nand more")

    monkeypatch.setattr(FakeDistance, "__init__", unreachable)
    with pytest.raises(BenchError, match="needs a network") as caught:
        frechet_package.PannEmbedding().embed([wave(1, 16_000)])
    assert "\n" not in str(caught.value)


def test_checkpoints_may_hold_tensors_and_nothing_that_runs(
    package: SimpleNamespace, tmp_path: Path
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "pwned"),))

    torch.save({"epoch": np.float64(3.0), "w": torch.ones(2)}, tmp_path / "good.pt")
    torch.save({"w": Evil()}, tmp_path / "bad.pt")
    with frechet_package._tensors_only():
        good = torch.load(tmp_path / "good.pt", weights_only=False)
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "bad.pt", weights_only=False)
    assert good["w"].sum() == 2.0
    assert not (tmp_path / "pwned").exists()
    embedding = frechet_package.EncodecEmbedding()
    embedding.embed([wave(1, 24_000)])
    assert embedding._loaded.forced == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_vggish_runs_downloaded_code_only_after_the_user_allowed_it(
    package: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(BenchError, match="trust_repo=True"):
        frechet_package.VggishEmbedding().embed([wave(1, 16_000)])
    (tmp_path / "trusted_list").write_text("harritaylor_torchvggish\n")
    (vectors,) = frechet_package.VggishEmbedding().embed([wave(1, 16_000)])
    assert vectors.shape == (3, 128)


def test_the_recipe_hashes_the_weights(
    package: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = frechet_package.ClapEmbedding().recipe
    assert recipe["package"] == "frechet-audio-distance 0.3.4"
    assert recipe["checkpoint"] == "630k-audioset"
    assert len(recipe["weights_sha256"]) == 64
    other = frechet_package.ClapEmbedding()
    torch.nn.init.constant_(other._loaded.model.bias, 1.0)
    assert other.recipe["weights_sha256"] != recipe["weights_sha256"]
