"""The delay pattern against its written-out table and an independent implementation."""

import pytest
import torch

from calm_bench.nn.delay import DelayPattern

PATTERN = DelayPattern((0, 1, 2, 3))
S = 99  # SPECIAL


def test_two_frames_of_four_codebooks() -> None:
    a, b = [1, 2, 3, 4], [11, 12, 13, 14]
    stream = PATTERN.apply(torch.tensor([[a, b]]), S)[0].T.tolist()
    assert stream == [[1, 11, S, S, S], [S, 2, 12, S, S], [S, S, 3, 13, S], [S, S, S, 4, 14]]


def test_inputs_are_the_step_before() -> None:
    stream = PATTERN.apply(torch.arange(24).view(1, 6, 4), S)
    inputs = PATTERN.inputs(stream, S)
    assert (inputs[:, 0] == S).all()
    assert torch.equal(inputs[:, 1:], stream[:, :-1])


@pytest.mark.parametrize("delays", [(0, 1, 2, 3), (0, 0, 1, 1), (0, 2, 1), (0,)])
def test_undoing_gives_the_codes_back(delays: tuple[int, ...]) -> None:
    pattern = DelayPattern(delays)
    codes = torch.randint(50, (3, 7, len(delays)), generator=torch.Generator().manual_seed(0))
    stream = pattern.apply(codes, S)
    assert stream.shape[1] == 7 + max(delays)
    assert torch.equal(pattern.undo(stream), codes)
    assert torch.equal(pattern.frame(stream, 4), codes[:, 4])
    assert pattern.undo(stream[:, : max(delays)]).shape[1] == 0


def test_sizes_of_thirty_seconds() -> None:
    table = PATTERN.table(1500)
    assert table.shape == (1503, 4)
    assert int((table < 0).sum()) == 4 * 3
    free = table >= 150  # a prompt of 3 s
    assert int(free.any(1).sum()) == 1353
    assert [int(free[:, k].nonzero()[0]) for k in range(4)] == [150, 151, 152, 153]


@pytest.mark.extra("llm")
def test_agrees_with_transformers() -> None:
    from transformers import MusicgenDecoderConfig
    from transformers.models.musicgen import modeling_musicgen as musicgen

    config = MusicgenDecoderConfig(
        num_hidden_layers=1, hidden_size=8, ffn_dim=8, num_attention_heads=1, num_codebooks=4
    )
    model = musicgen.MusicgenForCausalLM(config)
    codes = torch.randint(50, (2, 9, 4), generator=torch.Generator().manual_seed(0))
    # Its stream begins with a step of pads, which is what our first step reads.
    ids = torch.cat([torch.full((2, 4, 1), S), codes.transpose(1, 2)], dim=2).flatten(0, 1)
    _, mask = model.build_delay_pattern_mask(ids, pad_token_id=S, max_length=9 + 4)
    theirs = mask.view(2, 4, 13)[..., 1:].transpose(1, 2)
    assert torch.equal(theirs.long(), PATTERN.apply(codes, S))
