#!/usr/bin/env bash
# transformers 5.23.0: MusicGen's delay pattern disappears below 2K - 1 frames.
# build_delay_pattern_mask of four codebooks staggers them at max_length 7 and returns them level,
# all free from the first frame, at max_length 6, without a word: a short generation is drawn from
# another distribution than the one that was trained.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.13.0 transformers==5.23.0
"$work/venv/bin/python" - "$work" <<'PY'
import torch
from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

config = MusicgenDecoderConfig(
    vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16,
    num_codebooks=4, pad_token_id=16, bos_token_id=16,
)
model = MusicgenForCausalLM(config)
starts = {}
for length in (6, 7, 12):
    _, mask = model.build_delay_pattern_mask(torch.full((4, 1), 16), 16, length)
    starts[length] = [row.index(-1) for row in mask.tolist()]
print("first free frame of each codebook, by max_length:", starts)
assert starts == {6: [0, 0, 0, 0], 7: [1, 2, 3, 4], 12: [1, 2, 3, 4]}
PY
