#!/usr/bin/env bash
# Prepares an environment of its own for `calm-bench speed peers`: the packages that are timed beside
# ours, at the versions of peers-constraints.txt, with this checkout installed in it. Nothing outside
# of its folder is touched.
#
#   benchmarks/peers.sh [FOLDER]      default: ~/.cache/calm-bench/peers-env, or below CALM_BENCH_HOME
#
# moshi pins torch < 2.10 and older versions of packages that run as well in the ones we pin, so it is
# installed without its dependencies; those that it uses here are in the list below. On Linux PyPI's
# torch is a CUDA build of several GB: without a GPU, set PEERS_TORCH_INDEX to torch's CPU index, whose
# address constraints.txt names. PYTHON names another interpreter than python3 (at least 3.11).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(dirname "$here")
pins=$here/peers-constraints.txt
python=${PYTHON:-python3}
folder=${1:-${CALM_BENCH_HOME:-$HOME/.cache/calm-bench}/peers-env}

fail() {
  echo "error: $1" >&2
  exit 2
}
[ $# -le 1 ] || fail "one folder at most: benchmarks/peers.sh [FOLDER]"
case ${1:-} in -*) fail "unknown option $1: benchmarks/peers.sh [FOLDER]" ;; esac
[ -f "$checkout/pyproject.toml" ] || fail "$checkout is no checkout of calm-bench: this script needs one"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$python is older than Python 3.11: name another with PYTHON=..."
if [ -e "$folder" ] && [ ! -f "$folder/pyvenv.cfg" ]; then
  fail "$folder exists and is no virtual environment: name another folder"
fi

# What the caller set for Python must not reach into the new environment.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip install --quiet -c "$pins")
if [ -n "${PEERS_TORCH_INDEX:-}" ]; then
  "${pip[@]}" torch --index-url "$PEERS_TORCH_INDEX"
fi
"${pip[@]}" -e "$checkout[kyutai,llm]" sentencepiece einops sphn
"${pip[@]}" --no-deps moshi

HF_HUB_OFFLINE=1 NO_TORCH_COMPILE=1 "$folder/bin/python" - <<'PY'
from importlib.metadata import version

import moshi.models  # noqa: F401
import pocket_tts  # noqa: F401
from transformers import MusicgenForCausalLM  # noqa: F401

names = ("torch", "pocket-tts", "moshi", "transformers")
print("ready: " + ", ".join(f"{name} {version(name)}" for name in names))
PY
cat <<TEXT
next, on a machine that does nothing else:
  $folder/bin/calm-bench speed peers
TEXT
