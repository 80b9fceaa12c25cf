#!/usr/bin/env bash
# What needs a CUDA device, in one command: the GPU tests, then the quickstart's phases and the
# kernels of sampling, as dated JSON.
#   bash benchmarks/gpu.sh [OUTPUT FOLDER]      (default benchmarks/results)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
mkdir -p "$out"
export PYTHONPATH=. PYTHONUNBUFFERED=1
timeout 240 python3 -m pytest -q -m gpu tests/gpu --ignore tests/gpu/test_kernels.py -p no:cacheprovider
timeout 480 python3 -m pytest -q -m gpu tests/gpu/test_kernels.py -p no:cacheprovider
timeout 200 python3 -m benchmarks.phases --output "$out"
timeout 480 python3 -m benchmarks.decode_kernels --output "$out"
