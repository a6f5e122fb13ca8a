#!/usr/bin/env bash
# Prepares an environment of its own for the embeddings of the extra `fad` (VGGish, CLAP, EnCodec, PANN), at
# the versions of constraints-fad.txt, with this checkout installed in it, and runs their tests there: the
# real package and its real networks, with random weights. Several GB; nothing outside of its folder is
# touched, and it is kept for use.
#
#   benchmarks/fad.sh [FOLDER]      default: ~/.cache/calm-bench/fad-env, or below CALM_BENCH_HOME
#
# PYTHON names another interpreter than python3 (at least 3.11).
set -euo pipefail

checkout=$(dirname "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)")
python=${PYTHON:-python3}
folder=${1:-${CALM_BENCH_HOME:-$HOME/.cache/calm-bench}/fad-env}

fail() {
  echo "error: $1" >&2
  exit 2
}
[ $# -le 1 ] || fail "one folder at most: benchmarks/fad.sh [FOLDER]"
case ${1:-} in -*) fail "unknown option $1: benchmarks/fad.sh [FOLDER]" ;; esac
[ -f "$checkout/pyproject.toml" ] || fail "$checkout is no checkout of calm-bench: this script needs one"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$python is older than Python 3.11: name another with PYTHON=..."
if [ -e "$folder" ] && [ ! -f "$folder/pyvenv.cfg" ]; then
  fail "$folder exists and is no virtual environment: name another folder"
fi

# What the caller set for Python must not reach into the new environment.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_TARGET PIP_PREFIX PIP_USER PIP_REQUIRE_VIRTUALENV PYTEST_ADDOPTS
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$python" -m venv "$folder"
folder=$(cd "$folder" && pwd)
cd "$checkout"
"$folder/bin/pip" install --quiet -c constraints-fad.txt -e ".[fad]" pytest pytest-xdist
"$folder/bin/pytest" -n 0 tests/embeddings/test_frechet_package.py tests/embeddings/test_frechet_networks.py
"$folder/bin/python" - <<'PY'
from importlib.metadata import version

names = ("frechet-audio-distance", "laion-clap", "encodec", "torchlibrosa", "torch", "torchaudio", "numpy")
print("ready: " + ", ".join(f"{name} {version(name)}" for name in names))
PY
cat <<TEXT
next, with the weights, which each embedding downloads once:
  $folder/bin/calm-bench score FOLDER --reference FOLDER --embedding encodec
TEXT
