#!/usr/bin/env bash
# What needs a CUDA device, in parts that stand alone and end within 8 minutes each, as dated JSON.
#   bash benchmarks/gpu.sh [PART ...] [OUTPUT FOLDER]    (default: tests phases; benchmarks/results)
# Parts: tests kernels phases decode rollouts-small rollouts-large head-main head-small head-more attention
#        learner-small learner-long
# The head's parts run twelve named cases (python -m benchmarks.head --list). Peers (trl, liger_kernel,
# cut_cross_entropy) are taken from PYTHONPATH where they import, e.g. from wheels installed with pip's --target;
# what is missing is named in the result.
set -euo pipefail
cd "$(dirname "$0")/.."
known=" tests kernels phases decode rollouts-small rollouts-large head-main head-small head-more attention learner-small learner-long "
parts=()
while [ $# -gt 0 ] && [[ "$known" == *" $1 "* ]]; do parts+=("$1"); shift; done
[ ${#parts[@]} -gt 0 ] || parts=(tests phases)
out=${1:-benchmarks/results}
mkdir -p "$out"
export PYTHONPATH=.:${PYTHONPATH:-} PYTHONUNBUFFERED=1
head() { timeout 470 python3 -m benchmarks.head --device cuda --warmup 10 --rounds 30 --out "$out" --cases "$@"; }
learner() { timeout 470 python3 -m benchmarks.learner --device cuda --updates 3 --out "$out" --cases "$@"; }
rollouts() { timeout 470 python3 -m benchmarks.rollouts --rounds 1 --no-batch --out "$out" --cases "$@"; }
failed=()
for part in "${parts[@]}"; do
    echo "== $part"
    case $part in
        tests) timeout 240 python3 -m pytest -q -m gpu tests/gpu --ignore tests/gpu/test_kernels.py -p no:cacheprovider ;;
        kernels) timeout 480 python3 -m pytest -q -m gpu tests/gpu/test_kernels.py -p no:cacheprovider ;;
        phases) timeout 200 python3 -m benchmarks.phases --output "$out" ;;
        decode) timeout 480 python3 -m benchmarks.decode_kernels --output "$out" ;;
        rollouts-small) rollouts qwen2.5-0.5b-32x8 qwen3-0.6b-32x8 ;;
        rollouts-large) rollouts qwen2.5-1.5b-32x8 qwen2.5-7b-32x8 ;;
        head-main) head 4096-train 4096-frozen 4096-score 4096-flat ;;
        head-small) head 896-train 896-frozen 896-score 896-ragged-t0.7-kept0.6 ;;
        head-more) head 1536-train 2048-train 3584-train 4096-32k-train ;;
        attention) timeout 470 python3 -m benchmarks.attention --out "$out" ;;
        learner-small) learner 0.5B-g8-p200 0.5B-g16-p2000 ;;
        learner-long) learner 1.5B-g8-p200 1.5B-g16-p2000 ;;
    esac || failed+=("$part")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
