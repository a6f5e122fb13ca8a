#!/usr/bin/env bash
# lightning-fabric 2.6.6: at bf16-mixed (16-mixed: float16) a module that Fabric has set up gets every
# floating tensor of its arguments rounded, wherever it lies in dicts, lists or tuples, before autocast
# chooses per operation. torch.autocast alone leaves inputs as they are. A module whose forward is the
# loss therefore learns from rounded targets: of audio 8 bits stay, noise some 50 dB below the sound.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.13.0 lightning-fabric==2.6.6
"$work/venv/bin/python" - <<'PY'
import math

import torch
from lightning_fabric import Fabric


class Loss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, batch):
        self.target = batch["wave"]
        return (self.scale * self.target - self.target).square().mean()


wave = 0.5 * torch.sin(2 * math.pi * 440 * torch.arange(16_000) / 16_000)


def heard(run):
    module = Loss()
    run(module)
    noise = (module.target.float() - wave).square().mean() / wave.square().mean()
    level = 10 * math.log10(noise) if noise else -math.inf
    return module.target.dtype, level


def plain(module):
    with torch.autocast("cpu", torch.bfloat16):
        module({"wave": wave})


def fabric(module):
    Fabric(accelerator="cpu", devices=1, precision="bf16-mixed").setup_module(module)({"wave": wave})


for name, run in (("torch.autocast", plain), ("Fabric bf16-mixed", fabric)):
    dtype, level = heard(run)
    print(f"{name}: the target is {dtype}, {level:.1f} dB of noise")
assert heard(plain) == (torch.float32, -math.inf), "autocast no longer leaves inputs alone"
dtype, level = heard(fabric)
assert dtype == torch.bfloat16 and -60 < level < -40, "Fabric no longer rounds what it hands on"
PY
