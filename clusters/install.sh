#!/usr/bin/env bash
# Manynet into the Python of a node or an image, by the steps of the Makefile: clusters/install.sh [TREE or WHEEL]
set -euo pipefail

TORCHREC=1.8.0

what=$(realpath "${1:-$(dirname "$0")/..}")
python -m pip install --quiet --no-cache-dir "${what}[recsys,devices,trackers]"
# TorchRec asks for a CUDA build of fbgemm by name; the build that fits the installed PyTorch is taken instead.
python -m pip install --quiet --no-cache-dir --no-deps "torchrec==$TORCHREC"
fbgemm=$(python -c 'import torch; print("fbgemm-gpu" if torch.version.cuda else "fbgemm-gpu-cpu")')
python -m pip install --quiet --no-cache-dir --no-deps "$fbgemm==$TORCHREC"
