"""A twin holds a package's weights and gives its outputs; each needs its package installed.

`benchmarks/peers.sh` prepares an environment with all three.
"""

import importlib.util
from typing import Any, ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calm_bench.speed.peers import moshi_twin, musicgen_twin, pocket_twin
from calm_bench.speed.peers.sides import stub_codec, stub_system
from calm_bench.systems.base import Prompt
from calm_bench.systems.engine import prepare
from calm_bench.systems.pocket_tts import at_random, shipped_config
from calm_bench.types import Mode, SamplingParams

GREEDY = SamplingParams(temperature=0.0, text_temperature=0.0)


def needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{module} is not installed")


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = expected.abs().max().item()
    assert scale > 1e-3, "the comparison would mean nothing"
    assert (found - expected).abs().max().item() <= 1e-4 * scale


def small_pocket(name: str) -> Any:
    config = shipped_config(name)
    lm, mimi = config["flow_lm"], config["mimi"]
    lm["transformer"] |= {"d_model": 32, "num_heads": 4, "num_layers": 3}
    lm["flow"] |= {"dim": 24, "depth": 2}
    lm["lookup_table"] |= {"dim": 32, "n_bins": 120}
    decoder = "decoder_" if "decoder_seanet" in mimi else ""
    for part in {"", decoder}:
        mimi[f"{part}seanet"] |= {"n_filters": 4, "dimension": 32}
        mimi[f"{part}transformer"] |= {
            "d_model": 32, "num_heads": 4, "num_layers": 2, "dim_feedforward": 48, "context": 40,
            "input_dimension": 32, "output_dimensions": [32],
        }  # fmt: skip
    mimi["outer_dim"] = mimi["quantizer"]["output_dimension"] = 32
    torch.manual_seed(0)
    model = at_random(config)
    model.flow_lm.emb_mean.normal_()
    model.flow_lm.emb_std.uniform_(0.5, 1.5)
    nn.init.normal_(model.flow_lm.bos_emb)
    return model


@needs("pocket_tts")
@pytest.mark.parametrize("name", ["english", "english_18m_2026-10"])
class TestPocket:
    @torch.inference_mode()
    def test_context_and_end_of_speech(self, name: str) -> None:
        from pocket_tts.modules.stateful_module import init_states

        model = small_pocket(name)
        twin, lm = pocket_twin.PocketTwin(model), model.flow_lm
        frames = torch.randn(1, 6, 32)
        sequence = torch.cat([lm.bos_emb.view(1, 1, -1), frames[:, :5]], dim=1)
        empty = torch.empty(1, 0, lm.dim)
        z = lm.backbone(lm.input_linear(sequence), empty, sequence, init_states(lm, 1, 8))
        own = twin.system.contexts(frames, None)
        close(own if lm.z_proj is None else lm.z_proj(own), z)
        close(F.linear(own, twin.end_weight, twin.end_bias), lm.out_eos(z))

    @torch.inference_mode()
    def test_head(self, name: str) -> None:
        from pocket_tts.models.flow_lm import drifting_decode, lsd_decode

        model = small_pocket(name)
        twin, lm = pocket_twin.PocketTwin(model), model.flow_lm
        z, noise = torch.randn(5, lm.dim), torch.randn(5, 32)
        given = z if lm.z_proj is None else lm.z_proj(z)
        decode = lsd_decode if twin.lsd else drifting_decode
        expected = decode(lambda *args: lm.flow_net(given, *args), noise, 1)
        found = -twin.system.mlp(noise, torch.full((5,), 1.57), z)
        close(found + noise if twin.lsd else found, expected)

    @torch.inference_mode()
    @pytest.mark.parametrize("mode", ["plain", "eager"])
    def test_whole_steps_without_noise(self, name: str, mode: Mode) -> None:
        from pocket_tts.modules.stateful_module import init_states

        model = small_pocket(name)
        model.temp = 0.0
        twin = pocket_twin.PocketTwin(model)
        prepare(twin.system, mode=mode)
        state, latent = init_states(model.flow_lm, 1, 8), torch.full((1, 1, 32), float("nan"))
        expected = []
        for _ in range(6):
            run = model._run_flow_lm_and_increment_step
            latent, _ = run(model_state=state, backbone_input_latents=latent)
            expected.append(latent[:, 0])
        own = twin.system.start([Prompt(wave=torch.zeros(0))], GREEDY, [torch.Generator()], 6)
        close(torch.stack([twin.step(own) for _ in range(6)]), torch.stack(expected))

    @torch.inference_mode()
    @pytest.mark.parametrize("mode", ["plain", "eager"])
    def test_codec_streamed(self, name: str, mode: Mode) -> None:
        from pocket_tts.modules.stateful_module import increment_steps, init_states

        model = small_pocket(name)
        codec = prepare(pocket_twin.PocketTwin(model).system, mode=mode).codec
        lm = model.flow_lm
        latents = torch.randn(1, 7, 32)  # 112 positions: more than the context of 40
        theirs, own = init_states(model.mimi, 1, 16 * 7), codec.start_decoding(1)
        for latent in latents.unbind(1):
            scaled = (latent * lm.emb_std + lm.emb_mean)[:, None]
            expected = model.mimi.decode_from_latent(scaled, theirs)[:, 0]
            increment_steps(model.mimi, theirs, 16)
            close(codec.decode_step(latent, own), expected)


@needs("moshi")
class TestMoshi:
    shape: ClassVar[dict[str, int]] = {
        "dim": 32, "num_layers": 3, "num_heads": 4, "context": 12, "text_card": 40, "card": 50,
        "depformer_dim": 16, "depformer_num_layers": 2, "depformer_num_heads": 4,
        "depformer_dim_feedforward": 66,
    }  # fmt: skip

    @torch.inference_mode()
    def test_contexts_text_and_depth(self) -> None:
        torch.manual_seed(0)
        lm = moshi_twin.build_lm(**self.shape)
        system = moshi_twin.twin_system(lm, stub_codec(8, 50))
        codes, text = torch.randint(0, 50, (1, 8, 6)), torch.randint(0, 40, (1, 6))
        both = torch.cat([text[:, None], codes], dim=1)
        inputs = torch.cat([lm._get_initial_token(), both], dim=2)[:, :, :-1]
        z, logits = lm.forward_text(inputs)
        own = system.contexts(codes.transpose(1, 2), text)
        close(own, z)
        close(system.text_head(own), logits[:, 0])
        expected = lm.forward_depformer_training(both, z)[0].transpose(0, 1)  # [T, K, V]
        close(system.depth(own[0], codes[0].T, text[0]), expected)

    @torch.inference_mode()
    @pytest.mark.parametrize("mode", ["plain", "eager"])
    def test_greedy_codes_of_a_frame(self, mode: Mode) -> None:
        from moshi.models import LMGen

        torch.manual_seed(1)
        lm = moshi_twin.build_lm(**self.shape)
        system = moshi_twin.twin_system(lm, stub_codec(8, 50))
        prepare(system, mode=mode)
        z, text = torch.randn(1, 1, 32), torch.tensor([7])
        expected = LMGen(lm, use_sampling=False).depformer_step(text, z)
        state = system.start([Prompt(wave=torch.zeros(0))], GREEDY, [torch.Generator()], 1)
        system.backbone_step(state)
        state.text[:, state.step - 1] = text
        assert torch.equal(system.head_step(state, z[:, 0]), expected)

    @torch.inference_mode()
    @pytest.mark.parametrize("mode", ["plain", "eager"])
    def test_mimi_whole_and_streamed(self, mode: Mode) -> None:
        torch.manual_seed(0)
        mimi = moshi_twin.build_codec()
        codec = prepare(stub_system(moshi_twin.twin_codec(mimi)), mode=mode).codec
        codes = torch.randint(0, 2048, (1, 8, 4))
        close(codec.decode(codes), mimi.decode(codes)[:, 0])
        state = codec.start_decoding(1)
        with mimi.streaming(1):
            for column in codes.unbind(2):
                close(codec.decode_step(column, state), mimi.decode(column[..., None])[:, 0])


@needs("transformers")
@torch.inference_mode()
def test_musicgen_steps() -> None:
    torch.manual_seed(2)
    shape = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "ffn_dim": 48}
    decoder = musicgen_twin.build_decoder(**shape, num_attention_heads=4)
    system = prepare(musicgen_twin.twin_system(decoder, stub_codec(4, 50)))
    state = system.start([Prompt(wave=torch.zeros(0))], GREEDY, [torch.Generator()], 6)
    for _ in range(6):
        system.push(state, system.head_step(state, system.backbone_step(state)))
    stream = state.stream  # [1, 9, 4]: what each step drew, and SPECIAL where nothing is due
    inputs = torch.cat([torch.full_like(stream[:, :1], 50), stream[:, :-1]], dim=1)
    logits = decoder(input_ids=inputs[0].T, use_cache=False).logits
    free = stream[0] < 50
    assert free.sum() == 24
    assert torch.equal(logits.argmax(-1).T[free], stream[0][free])


@needs("transformers")
@torch.inference_mode()
def test_musicgen_logits() -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "ffn_dim": 48}
    decoder = musicgen_twin.build_decoder(**shape, num_attention_heads=4)
    system = musicgen_twin.twin_system(decoder, stub_codec(4, 50))
    codes = torch.randint(0, 51, (2, 7, 4))
    logits = decoder(input_ids=codes.transpose(1, 2).reshape(8, 7), use_cache=False).logits
    own = system.logits(system.backbone(system.embed_frames(codes)))  # [B, S, K, V]
    close(own, logits.view(2, 4, 7, -1).permute(0, 2, 1, 3))
