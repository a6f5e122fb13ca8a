#!/usr/bin/env bash
# torchmetrics 1.9.0: scale_invariant_signal_distortion_ratio gives a silent estimate 0 dB, far
# above an unrelated noise (about -40 dB), because eps over eps is 1: a model that says nothing
# beats one that tries. The same eps makes it depend on scale: a perfect copy scores 111 dB at
# unit level and under 1 dB when both are 120 dB quieter.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 torch==2.13.0 torchmetrics==1.9.0
"$work/venv/bin/python" - "$work" <<'PY'
import torch
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as si_sdr

torch.manual_seed(0)
target = torch.randn(16_000)
silence = float(si_sdr(torch.zeros(16_000), target))
noise = float(si_sdr(torch.randn(16_000), target))
loud, quiet = float(si_sdr(target, target)), float(si_sdr(target * 1e-6, target * 1e-6))
print(f"silence {silence:.2f} dB, unrelated noise {noise:.1f} dB")
print(f"perfect copy: {loud:.1f} dB, the same at -120 dB: {quiet:.2f} dB")
assert silence == 0.0 and noise < -20, "silence no longer beats noise"
assert loud > 100 and quiet < 1, "a perfect copy no longer depends on its level"
PY
