"""The real package of the extra `fad` and its real networks, their checkpoints filled at random.

VGGish is not among them: its network is code that torch.hub fetches. `benchmarks/fad.sh` prepares
an environment and runs these tests in it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calm_bench.embeddings import frechet_package
from calm_bench.embeddings.frechet_package import (
    ClapEmbedding,
    ClapMusicEmbedding,
    EncodecEmbedding,
    PannEmbedding,
)

pytestmark = [pytest.mark.extra("fad"), pytest.mark.filterwarnings("ignore")]


def pann_checkpoint() -> dict[str, Any]:
    from frechet_audio_distance.models.pann import Cnn14_16k

    network = Cnn14_16k(16000, 512, 160, 64, 50, 8000, 527)
    return {"epoch": np.float64(3.0), "model": network.state_dict()}


def clap_checkpoint(network: str) -> dict[str, Any]:
    import laion_clap

    state = laion_clap.CLAP_Module(
        enable_fusion=False, device="cpu", amodel=network
    ).model.state_dict()
    # What older transformers saved, and the package takes out.
    state["text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    return {"epoch": np.float64(3.0), "state_dict": state}


CHECKPOINTS = {
    "Cnn14_16k_mAP%3D0.438.pth": pann_checkpoint,
    "630k-audioset-best.pt": lambda: clap_checkpoint("HTSAT-tiny"),
    "music_audioset_epoch_15_esc_90.14.pt": lambda: clap_checkpoint("HTSAT-base"),
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hubs that hand out random weights; the list gets the name of each that was asked for."""
    import transformers

    asked: list[str] = []
    frechet_package._import_package("any")
    from encodec import EncodecModel

    def download(url: str, dst: str, **options: Any) -> None:
        name = url.rpartition("/")[2]
        asked.append(name)
        torch.save(CHECKPOINTS[name](), dst)

    def encodec(url: str, **options: Any) -> dict[str, Any]:
        asked.append(url.rpartition("/")[2])
        return EncodecModel._get_model([1.5, 3.0, 6, 12.0, 24.0], 24_000, 1).state_dict()

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", encodec)
    # CLAP's text side, which audio has no use for, is one layer deep.
    small = transformers.RobertaConfig(num_hidden_layers=1, vocab_size=100)
    monkeypatch.setattr(
        transformers.RobertaModel, "from_pretrained", lambda name: transformers.RobertaModel(small)
    )
    monkeypatch.setattr(transformers.RobertaTokenizer, "from_pretrained", lambda name: None)
    return asked


@pytest.mark.parametrize(
    ("kind", "checkpoint", "counts"),
    [
        (PannEmbedding, "Cnn14_16k_mAP%3D0.438.pth", (1, 1)),
        (EncodecEmbedding, "encodec_24khz-d7cc33bc.th", (75, 938)),
        (ClapEmbedding, "630k-audioset-best.pt", (1, 3)),
        (ClapMusicEmbedding, "music_audioset_epoch_15_esc_90.14.pt", (1, 3)),
    ],
)
def test_the_network_gives_the_declared_vectors(
    hub: list[str], kind: Any, checkpoint: str, counts: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    embedding, rng = kind(), np.random.default_rng(0)
    rate = embedding.sample_rate
    waves = [(0.1 * rng.standard_normal(round(s * rate))).astype(np.float32) for s in (1.0, 12.5)]
    found = embedding.embed(waves)
    assert hub == [checkpoint]
    for vectors, count in zip(found, counts, strict=True):
        assert vectors.shape == (count, embedding.dim)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
    assert not np.allclose(found[0][0], found[1][0])
    np.testing.assert_allclose(embedding.embed(waves[:1])[0], found[0], atol=1e-5)
    assert len(embedding.recipe["weights_sha256"]) == 64
