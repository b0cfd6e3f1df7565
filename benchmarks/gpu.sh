#!/usr/bin/env bash
# What does a machine with a GPU give? Every part in a process of its own, bounded in time; one JSON as the last line.
#
#   benchmarks/gpu.sh                                    the quickstart's recipes, made here: no hub, no model
#   MODEL=/models/SmolLM2-135M benchmarks/gpu.sh         a folder that transformers loads, as target and as source
#   benchmarks/gpu.sh --accelerator cpu                  the same on the CPU, to try the script
#   benchmarks/gpu.sh --parts "steps qlora" block_tokens=2048 batch_blocks=4      some parts; overrides of train.py
#
# quickstart  train.py: seconds, bits per byte            attention   a step by each kernel, or why there is none
# steps       fused against CLM steps, peak against plan  qlora       a step beside 4 bits, peak against plan
# tracing     tokens a second that a source reads         fsdp        train.py in shards over all GPUs, from two on
#
# LIMIT (seconds a part, 900). A part that fails is under "failed" with its last words, and the exit status is 1.
set -uo pipefail
cd "$(dirname "$0")/.."
accelerator=gpu
parts="quickstart steps tracing attention qlora fsdp"
while [ $# -gt 0 ]; do
  case "$1" in
    --accelerator) accelerator=$2; shift 2 ;;
    --parts) parts=$2; shift 2 ;;
    *) break ;;
  esac
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for part in $parts; do
  echo "+ $part" >&2
  timeout --kill-after 10 "${LIMIT:-900}" \
    python benchmarks/gpu.py "$part" "$@" --accelerator "$accelerator" --model "${MODEL:-}" --steps "${STEPS:-20}" \
    >"$work/$part.out" 2> >(tee "$work/$part.err" >&2)
  echo $? >"$work/$part.status"
done
python benchmarks/gpu.py summary $parts --folder "$work"
