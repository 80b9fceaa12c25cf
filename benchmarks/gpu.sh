#!/usr/bin/env bash
# What needs a CUDA device, in independent parts that end within 8 minutes each, as dated JSON.
#   bash benchmarks/gpu.sh [PART ...] [OUTPUT FOLDER]    (default: tests answers; benchmarks/results)
# Parts: answers tests kernels phases decode rollouts-small rollouts-large rollouts-compiled head-main head-small
#        head-more attention learner-small learner-long e2e e2e-gsm8k e2e-trl e2e-trl-tuned
# Environment:
#   PEERS    folder of wheels, installed into a folder of their own (--no-index --no-deps); without it peers are taken from
#            PYTHONPATH where they import. What is missing is named in the results.
#   MODEL    folder of SmolLM2-135M-Instruct, or its .gguf file (read once, saved to $SCRATCH/smollm2)
#   GSM8K    GSM8K's train.jsonl
#   SCRATCH  folder for what is made on the way (default: /tmp/grpo-gpu)
#   TRY=1    tries answers and e2e on the CPU, at sizes that mean nothing
# docs/gpu.md says what each part answers, how long it takes, and which wheels the peers need.
set -euo pipefail
cd "$(dirname "$0")/.."
known=" answers tests kernels phases decode rollouts-small rollouts-large rollouts-compiled head-main head-small head-more \
attention learner-small learner-long e2e e2e-gsm8k e2e-trl e2e-trl-tuned "
parts=()
while [ $# -gt 0 ] && [[ "$known" == *" $1 "* ]]; do parts+=("$1"); shift; done
[ ${#parts[@]} -gt 0 ] || parts=(tests answers)
out=${1:-benchmarks/results}
scratch=${SCRATCH:-/tmp/grpo-gpu}
mkdir -p "$out" "$scratch"
python=${PYTHON:-python3}
if [ -n "${PEERS:-}" ] && [ ! -e "$scratch/peers/.installed" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$scratch/peers" "$PEERS"/*.whl \
        && touch "$scratch/peers/.installed" || echo "the wheels of $PEERS could not be installed; going on without" >&2
fi
export PYTHONPATH=.:$scratch/peers:${PYTHONPATH:-} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
run() { timeout "$1" "$python" -m "${@:2}"; }
with_model() { [ -n "$model" ] || { echo "MODEL is not set, or could not be read" >&2; return 1; }; "$@"; }
head() { run 470 benchmarks.head --device cuda --warmup 3 --rounds 30 --out "$out" --cases "$@"; }
learner() { run 470 benchmarks.learner --device cuda --updates 3 --out "$out" --cases "$@"; }
rollouts() { run 470 benchmarks.rollouts --rounds 1 --no-batch --out "$out" ${model:+--model "$model"} --cases "$@"; }
rollouts_compiled() { rollouts "$@" --compile; }
e2e() { run 475 benchmarks.e2e --model "$model" ${GSM8K:+--gsm8k "$GSM8K"} ${TRY:+--small} --out "$out" "$@"; }
against_trl() { run 470 benchmarks.vs_trl --device cuda --case smollm2-long --rounds 1 --model "$model" \
    --ours-micro 32768 --out "$out" "$@"; }

model=${MODEL:-}
if [[ "$model" == *.gguf ]] || { [ -n "$model" ] && [ ! -e "$model/config.json" ]; }; then
    if [ ! -e "$scratch/smollm2/tokenizer.json" ]; then
        run 200 benchmarks.dequantise "$model" "$scratch/smollm2" || { model=; echo "MODEL could not be read" >&2; }
    fi
    [ -z "$model" ] || model=$scratch/smollm2
fi

part() {
    case $1 in
        answers) run 470 benchmarks.answers ${TRY:+--device cpu --small} --limit 90 --out "$out" \
            ${model:+--model "$model"} ;;
        tests) run 240 pytest -q -m gpu tests/gpu --ignore tests/gpu/test_kernels.py -p no:cacheprovider ;;
        kernels) run 470 pytest -q -m gpu tests/gpu/test_kernels.py -p no:cacheprovider ;;
        phases) run 200 benchmarks.phases --output "$out" sample.keep_graphs=true ;;
        decode) run 470 benchmarks.decode_kernels --output "$out" ;;
        rollouts-small) rollouts qwen2.5-0.5b-32x8 qwen3-0.6b-32x8 ${model:+smollm2-32x8} ;;
        rollouts-large) rollouts qwen2.5-1.5b-32x8 qwen2.5-7b-32x8 ;;
        rollouts-compiled) rollouts_compiled qwen2.5-0.5b-32x8 qwen2.5-1.5b-32x8 qwen3-0.6b-32x8 ;;
        head-main) head 4096-train 4096-frozen 4096-score 4096-flat ;;
        head-small) head 896-train 896-frozen 896-score 896-ragged-t0.7-kept0.6 ;;
        head-more) head 1536-train 2048-train 3584-train 4096-32k-train ;;
        attention) run 470 benchmarks.attention --out "$out" ;;
        learner-small) learner 0.5B-g8-p200 0.5B-g16-p2000 ;;
        learner-long) learner 1.5B-g8-p200 1.5B-g16-p2000 ;;
        e2e) with_model e2e --runs sums-full sums-lora --seconds "${TRY:-80}" ;;
        e2e-gsm8k) with_model e2e --runs gsm8k-full gsm8k-lora --seconds "${TRY:-120}" ;;
        e2e-trl) with_model against_trl ;;
        e2e-trl-tuned) with_model against_trl --trl-micro 64 --trl-checkpointing off ;;
    esac
}

failed=()
for name in "${parts[@]}"; do
    echo "== $name"
    begun=$SECONDS
    part "$name" || failed+=("$name")
    echo "== $name took $((SECONDS - begun)) s"
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
