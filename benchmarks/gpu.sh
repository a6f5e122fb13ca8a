#!/usr/bin/env bash
# Shows in at most eight minutes whether this machine's GPU computes what it should, and how fast: run it
# before any other measurement on a GPU. The steps, and what they write, are described in gpu.py.
#
#   benchmarks/gpu.sh [--out FOLDER] [--only STEP ...] [--rehearse] [--fresh]
#
# It needs torch and this package's core dependencies, no network, corpus or weights but the shipped
# ones. PYTHON names another interpreter than python3.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHONPATH=$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH} exec "${PYTHON:-python3}" "$here/gpu.py" "$@"
