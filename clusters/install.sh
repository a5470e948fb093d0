#!/usr/bin/env bash
# Manynet into the Python of a node or an image, as the Makefile does: clusters/install.sh [TREE or WHEEL [CONSTRAINTS]]
set -euo pipefail

here=$(dirname "$0")
what=$(realpath "${1:-$here/..}")
constraints=$(realpath "${2:-$here/../constraints.txt}")
pip=(python -m pip install --quiet --no-cache-dir)
"${pip[@]}" --constraint "$constraints" "${what}[recsys,devices,trackers]"
# TorchRec asks for a CUDA build of fbgemm by name; the build that fits the installed PyTorch is taken instead.
python -m manynet.learning.torchrec_setup | xargs "${pip[@]}" --no-deps
