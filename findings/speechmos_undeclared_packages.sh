#!/usr/bin/env bash
# speechmos 0.0.1.1: the wheel declares no requirements, but `from speechmos import dnsmos`
# imports librosa, onnxruntime and requests, so a fresh installation of it alone raises
# ModuleNotFoundError. The ONNX files that it ships work with onnxruntime alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet speechmos==0.0.1.1
"$work/venv/bin/python" - "$work" <<'PY'
import importlib.metadata

requires = importlib.metadata.requires("speechmos")
try:
    from speechmos import dnsmos  # noqa: F401
    missing = None
except ModuleNotFoundError as error:
    missing = error.name
print("declared:", requires, "missing at import:", missing)
assert not requires and missing in ("librosa", "numpy", "onnxruntime")
PY
