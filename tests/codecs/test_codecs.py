"""Codecs: causal, streamable, and honest about what they store."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file

from calm_bench.codecs.autoencoder import Autoencoder
from calm_bench.codecs.blocks import ComplexMel, InverseStft, LogMel, Stream, mel_filterbank
from calm_bench.codecs.checkpoints import build_module, load_codec
from calm_bench.codecs.rvq import ResidualQuantiser, RvqConfig
from calm_bench.codecs.trunk import TrunkConfig
from calm_bench.codecs.vae import VaeCodec
from calm_bench.config import ModelConfig, load_model_config
from calm_bench.errors import InputError, WeightsError
from calm_bench.nn.transformer import KvCache
from calm_bench.seeds import file_hash

WAVEFORM = {
    "sample_rate": 1600,
    "front_end": "waveform",
    "ratios": [4, 4, 8],
    "kernel": 7,
    "encoder_dims": [8, 8, 16, 16],
    "encoder_blocks": [1, 1, 1, 0],
    "decoder_dims": [8, 8, 16, 16],
    "decoder_blocks": [1, 1, 1, 0],
    "transformer": {"dim": 16, "layers": 2, "heads": 2, "mlp_dim": 32, "context": 4}
    | {"layer_scale": 0.5},
}


STFT = {
    "sample_rate": 1600,
    "front_end": "stft",
    "hop": 32,
    "n_fft": 64,
    "n_mels": 8,
    "ratios": [4],
    "encoder_dims": [16, 16],
    "encoder_blocks": [1, 1],
    "decoder_dims": [16, 16],
    "decoder_blocks": [1, 1],
}


def small_codec(kind: str, trunk: dict[str, Any] = WAVEFORM, **own: Any) -> Autoencoder:
    codes = {"n_codebooks": 3, "codebook_size": 8, "code_dim": 4}
    frame = {"vae": {"latent_channels": 4}, "rvq": codes}
    architecture = {"trunk": trunk, **frame[kind], **own}
    config = ModelConfig(kind="codec", type=kind, description="", architecture=architecture)
    codec = build_module(config, Path("test"))
    assert isinstance(codec, Autoencoder)
    return codec.eval()


CODECS = {
    "vae, mel": lambda: load_codec("vae-debug"),
    "rvq, mel": lambda: load_codec("rvq-debug"),
    "vae, stft": lambda: small_codec("vae", STFT),
    "rvq, stft": lambda: small_codec("rvq", STFT),
    "vae, sampled": lambda: small_codec("vae", STFT, sampled=True),
    "vae, running phases": lambda: small_codec("vae", STFT | {"phase": "running"}),
    "vae, waveform and transformer": lambda: small_codec("vae"),
    "rvq, waveform and transformer": lambda: small_codec("rvq"),
}


def noise(samples: int, rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, samples, generator=torch.Generator().manual_seed(0)) * 0.1


@pytest.mark.parametrize("per_call", [(1,), (1, 3, 2, 5)], ids=["one", "several"])
@pytest.mark.parametrize("fast", [False, True], ids=["plain", "prepared"])
@pytest.mark.parametrize("name", CODECS)
@torch.inference_mode()
def test_streamed_decoding_equals_whole_decoding(
    name: str, fast: bool, per_call: tuple[int, ...]
) -> None:
    codec = CODECS[name]()
    if fast:
        codec.prepare()
    frames = codec.encode(noise(128 * 24))
    whole = codec.decode(frames)
    frames = frames if codec.continuous else frames.transpose(1, 2)
    state, parts = codec.start_decoding(2), []
    for size in itertools.islice(itertools.cycle(per_call), 24):
        part, frames = frames[:, :size], frames[:, size:]
        if part.shape[1] == 1:
            parts.append(codec.decode_step(part[:, 0], state))
        elif part.shape[1] > 1:
            parts.append(codec.decode_steps(part, state))
    streamed = torch.cat(parts, dim=1)
    assert whole.shape == (2, 128 * 24)
    torch.testing.assert_close(streamed, whole, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_prepared_stream_holds_no_more_after_a_minute() -> None:
    codec = small_codec("vae")
    codec.prepare()
    state, sizes = codec.start_decoding(1), []
    for i in range(40):
        codec.decode_step(torch.randn(1, 4), state)
        held = [x.buffer if isinstance(x, KvCache) else x for x in state.values()]
        sizes.append(sum(x.untyped_storage().nbytes() for x in held))
        if i > 0:
            assert sizes[i] == sizes[1]
    assert codec.kv_bytes(1) == 2 * codec.kv_bytes(0)
    assert codec.kv_bytes(40) == 4 * codec.kv_bytes(0)


@pytest.mark.parametrize("name", CODECS)
@torch.inference_mode()
def test_no_frame_depends_on_later_audio(name: str) -> None:
    codec = CODECS[name]()
    wave = noise(128 * 8)
    changed = wave.clone()
    changed[:, 128 * 5 :] = noise(128 * 3) * 3
    axis = 1 if codec.continuous else 2
    first, second = codec.encode(wave).narrow(axis, 0, 5), codec.encode(changed).narrow(axis, 0, 5)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CODECS)
@torch.inference_mode()
def test_audio_is_padded_to_whole_frames(name: str) -> None:
    codec = CODECS[name]()
    frames = codec.encode(noise(128 * 3 + 1))
    assert frames.shape[1 if codec.continuous else 2] == 4
    assert codec.decode(frames).shape[1] == 4 * codec.hop_length


@torch.inference_mode()
def test_drawn_frames_have_the_mean_and_the_spread_of_their_posterior() -> None:
    codec = small_codec("vae", STFT, sampled=True)
    assert isinstance(codec, VaeCodec)
    codec.latent_mean.fill_(0.3)
    codec.latent_std.fill_(2.0)
    wave, generator = noise(128 * 5), torch.Generator().manual_seed(1)
    mean, log_variance = codec.posterior(wave)
    draws = torch.stack([codec.draw(wave, generator) for _ in range(4000)]) * 2.0 + 0.3
    torch.testing.assert_close(draws.mean(0), mean, atol=0.06, rtol=0)
    torch.testing.assert_close(draws.std(0), (0.5 * log_variance).exp(), atol=0, rtol=0.05)
    short = codec.encode(wave[:, : 128 * 3])
    torch.testing.assert_close(codec.encode(wave)[:, :3], short, atol=1e-5, rtol=0)


def test_mel_filters_cover_the_band_and_peak_at_most_at_one() -> None:
    bank = mel_filterbank(20, 512, 16000)
    assert bank.shape == (20, 257)
    assert bank.min() == 0
    assert bank.max() <= 1
    assert (bank[:, 1:-1].sum(0) > 0).all()


def test_inverse_stft_adds_windows_up_to_one() -> None:
    # A constant spectrum line must come out as a steady wave: no gaps between frames.
    head = InverseStft(4, 64, 16)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.fill_(-20.0)
        head.linear.bias[0] = np.log(64.0)  # magnitude 64 at 0 Hz: the constant 1
        head.linear.bias[33:] = 0.0
    wave = head(torch.zeros(1, 20, 4))[0]
    torch.testing.assert_close(wave[64:], torch.ones_like(wave[64:]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("running", "heard"), [(False, 36.0), (True, 35.3)])
def test_a_steady_tone_keeps_its_pitch_on_running_phases_alone(running: bool, heard: float) -> None:
    # Every frame has the spectrum of a tone at 35.3 bins; hops are 4 bins apart.
    n_fft, n = 1280, torch.arange(1280)
    tone = torch.cos(math.tau * 35.3 * (n - n_fft / 2) / n_fft) * torch.hann_window(n_fft)
    spectrum = torch.fft.rfft(tone)
    head = InverseStft(4, n_fft, 320, running)
    with torch.no_grad():
        head.linear.weight.zero_()
        head.linear.bias.copy_(torch.cat([spectrum.abs().clamp_min(1e-4).log(), spectrum.angle()]))
        wave = head(torch.zeros(2, 200, 4))[1, 8 * n_fft : 40 * n_fft]
    lines = torch.fft.rfft(wave * torch.hann_window(len(wave))).abs().square()
    frequency = torch.arange(len(lines)) / 32  # in bins
    assert float(frequency[lines.argmax()]) == pytest.approx(heard, abs=0.1)
    near = (frequency - heard).abs() < 0.2
    assert float(lines[near].sum() / lines.sum()) > (0.95 if running else 0.3)


@pytest.mark.parametrize("kind", [LogMel, ComplexMel])
def test_a_front_end_hears_only_its_own_past_whole_or_streamed(kind: type[LogMel]) -> None:
    front, wave = kind(1600, 64, 32, 8), noise(320, 1)
    later = wave.clone()
    later[:, 96:] = 0.5
    torch.testing.assert_close(front(wave)[:, :3], front(later)[:, :3])
    stream: Stream = {}
    parts = [front(part, stream) for part in wave.split([32, 96, 192], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), front(wave))


def test_complex_mel_keeps_the_phase_and_raises_quiet_partials() -> None:
    front, wave = ComplexMel(1600, 64, 32, 8), noise(320, 1)
    mel, real, imaginary = front(wave).split([8, 33, 33], dim=-1)
    torch.testing.assert_close(mel, LogMel(1600, 64, 32, 8)(wave))
    found = torch.complex(real, imaginary)
    padded = torch.nn.functional.pad(wave, (32, 0))
    plain = torch.stft(padded, 64, 32, window=front.window, center=False, return_complex=True)
    plain = plain.transpose(1, 2)
    torch.testing.assert_close(found.abs(), plain.abs() ** 0.3)
    torch.testing.assert_close(found / found.abs(), plain / plain.abs(), atol=1e-4, rtol=1e-4)
    assert not front(torch.zeros(1, 320))[..., 8:].any()


def test_log_mel_takes_what_lies_below_its_floor_for_silence() -> None:
    quiet = 1e-3 * noise(320, 1)
    deaf, keen = (LogMel(1600, 64, 32, 8, floor) for floor in (1e-2, 1e-5))
    silence = torch.zeros_like(quiet)
    torch.testing.assert_close(deaf(quiet), deaf(silence))
    assert (keen(quiet) - keen(silence)).mean() > 0.5
    loud = 10 * noise(320, 1)
    torch.testing.assert_close(deaf(loud), keen(loud))


def quantiser(**changes: Any) -> ResidualQuantiser:
    shape = {"n_codebooks": 4, "codebook_size": 16, "code_dim": 3, "decay": 0.9, **changes}
    torch.manual_seed(0)
    return ResidualQuantiser(
        RvqConfig.model_validate({"trunk": {**WAVEFORM, "transformer": None}, **shape})
    )


def test_quantiser_learns_its_data_and_every_level_helps() -> None:
    rvq, generator = quantiser(), torch.Generator().manual_seed(0)
    for _ in range(150):
        rvq.learn(torch.randn(8, 32, 3, generator=generator), torch.full((8,), 4), generator)
    x = torch.randn(16, 32, 3, generator=generator)
    codes = rvq.quantise(x)
    errors = [(rvq.lookup(codes[:, :k]) - x).square().mean().item() for k in range(1, 5)]
    assert all(later < 0.7 * earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 0.05
    assert all(len(codes[:, k].unique()) > 12 for k in range(4)), "codes are in use"


def test_thirty_two_levels_all_come_alive() -> None:
    rvq = quantiser(n_codebooks=32, code_dim=8, decay=0.99)
    generator = torch.Generator().manual_seed(0)

    def learn(steps: int) -> None:
        for _ in range(steps):
            x = torch.randn(8, 32, 8, generator=generator)
            rvq.learn(x, torch.full((8,), 32), generator)

    learn(60)
    rvq.codebooks[20, 8:] = 100.0  # codes that nothing is near
    rvq.usage[20, 8:] = 0.0
    learn(1)
    assert rvq.codebooks[20].abs().max() < 1.0, "they are put where their data are"
    learn(60)
    x = torch.randn(16, 64, 8, generator=generator)
    codes = rvq.quantise(x)
    used = [len(codes[:, level].unique()) for level in range(32)]
    assert min(used) >= 8, used
    halves = [(rvq.lookup(codes[:, :k]) - x).square().mean().item() for k in (8, 16, 32)]
    assert halves[2] < halves[1] < halves[0] < 0.3
    assert torch.equal(rvq.quantise(x, 16), codes[:, :16])


def test_quantiser_passes_the_gradient_straight_through() -> None:
    rvq = quantiser()
    x = torch.randn(2, 5, 3, requires_grad=True)
    out, _ = rvq.learn(x, torch.tensor([4, 2]), torch.Generator().manual_seed(0))
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def test_dropped_levels_do_not_contribute() -> None:
    rvq, generator = quantiser(decay=1.0), torch.Generator().manual_seed(0)
    rvq.usage.fill_(1e6)
    rvq.sums.copy_(rvq.codebooks * 1e6)
    x = torch.randn(2, 5, 3)
    out, _ = rvq.learn(x, torch.tensor([4, 1]), generator)
    codes = rvq.quantise(x)
    torch.testing.assert_close(out[0], rvq.lookup(codes)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(out[1], rvq.lookup(codes[:, :1])[1], atol=1e-5, rtol=0)


def test_bit_rate_is_levels_times_bits_times_rate() -> None:
    assert load_codec("rvq-debug").bits_per_second == pytest.approx(3 * 4 * 12.5)
    assert load_codec("vae-debug").bits_per_second is None


def test_a_system_is_not_a_codec() -> None:
    with pytest.raises(InputError, match="not a codec"):
        load_codec("calm-debug")


def test_wrong_missing_and_unfitting_weights_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    config, _ = load_model_config("vae-debug")
    data = config.model_dump(mode="json", exclude_none=True)

    def write(sha: str) -> None:
        data["weights"] = {"file": "weights.safetensors", "sha256": sha}
        (folder / "config.yaml").write_text(yaml.safe_dump(data))

    write("0" * 64)
    with pytest.raises(WeightsError, match=r"is missing.*calm-bench train"):
        load_codec(str(folder))
    save_file({"x": torch.zeros(1)}, folder / "weights.safetensors")
    with pytest.raises(WeightsError, match="has sha256"):
        load_codec(str(folder))
    data["trainings"] = {1: {"file": "trainings/1.safetensors", "sha256": "1" * 64}}
    write("0" * 64)
    (folder / "trainings").mkdir()
    save_file({"x": torch.ones(1)}, folder / "trainings/1.safetensors")
    with pytest.raises(WeightsError, match=r"has sha256.*calm-bench train mine --seed 1`"):
        load_codec(f"{folder}@seed1")
    write(file_hash(folder / "weights.safetensors"))
    with pytest.raises(WeightsError, match="does not fit"):
        load_codec(str(folder))


def test_weights_without_the_averages_of_training_load() -> None:
    codec = load_codec("rvq-music-tiny")
    config, folder = load_model_config("rvq-music-tiny")
    assert config.weights is not None
    with safe_open(folder / config.weights.file, "pt") as file:
        names = set(file.keys())
    assert set(codec.state_dict()) - names == {"quantiser.usage", "quantiser.sums"}
    lost = {k: v for k, v in codec.state_dict().items() if k != "quantiser.codebooks"}
    with pytest.raises(RuntimeError, match=r"quantiser\.codebooks"):
        codec.load_state_dict(lost)


def test_running_phases_need_spectra() -> None:
    with pytest.raises(ValidationError, match="front_end: waveform has none"):
        TrunkConfig.model_validate(WAVEFORM | {"phase": "running"})


@pytest.mark.parametrize("change", [{"hop": 0}, {"n_fft": 50}, {"n_mels": 0}, {"floor": 0.0}])
def test_a_front_end_that_cuts_no_frames_is_refused(change: dict[str, Any]) -> None:
    trunk = load_model_config("vae-debug")[0].architecture["trunk"]
    with pytest.raises(ValidationError, match=next(iter(change))):
        TrunkConfig.model_validate({**trunk, **change})
