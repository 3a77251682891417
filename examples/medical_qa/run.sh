#!/usr/bin/env bash
# The main job on real input: a small model is made and taught in full on general questions; LoRA and full tuning then
# teach it medicine; the three are compared, the adapter is merged and the result answers. All below build/quickstart.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bin=build/bin
data=examples/medical_qa
work=build/quickstart
mkdir -p "$work"

say() { printf '== %s\n' "$*"; }

# step NAME INPUT... -- COMMAND: runs the command unless it ran to its end since its inputs changed. Its result is
# $work/NAME, its output $work/NAME.log.
step() {
  local name=$1 input current=true
  shift
  local inputs=(build/lib/librankfold.so)
  while [[ $1 != -- ]]; do inputs+=("$1"); shift; done
  shift
  [[ -e $work/$name.done ]] || current=false
  for input in "${inputs[@]}"; do [[ ! $input -nt $work/$name.done ]] || current=false; done
  if $current; then
    say "$name: there"
    return
  fi
  say "$name: $*"
  rm -rf "${work:?}/$name" "$work/$name.done"
  local start=$SECONDS
  "$@" 2>&1 | tee "$work/$name.log"
  touch "$work/$name.done"
  say "$name: $((SECONDS - start)) s"
}

train() { "$bin/lora-train" configs/quickstart.json "$@"; }

step tiny "$data/general_qa.json" -- \
  "$bin/make_tiny_model" "$work/tiny" "$data/general_qa.json"
step base "$work/tiny.done" configs/quickstart.json "$data/general_qa.json" -- \
  train --model_name_or_path "$work/tiny" --dataset "$data/general_qa.json" --finetuning_type full \
  --per_device_train_batch_size 32 --learning_rate 1.5e-3 --num_train_epochs 3.5 --output_dir "$work/base"
step lora "$work/base.done" configs/quickstart.json "$data/medical_qa.json" "$data/medical_qa_heldout.json" -- \
  train --output_dir "$work/lora" --eval_dataset "$data/medical_qa_heldout.json" --eval_steps 128
step full "$work/base.done" configs/quickstart.json "$data/medical_qa.json" -- \
  train --finetuning_type full --learning_rate 5e-4 --num_train_epochs 8 --output_dir "$work/full"

# The table of the three; as a page with the answers: $work/compare.html.
compare() {
  "$bin/lora-eval" --compare base "$work/lora" "$work/full" --model_name_or_path "$work/base" \
    --dataset "$data/medical_qa_heldout.json" --train_dataset "$data/medical_qa.json" --terms terms \
    --max_new_tokens 48 --report "$work/compare" >"$work/compare.txt"
}
step compare "$work/base.done" "$work/lora.done" "$work/full.done" "$data/medical_qa.json" \
  "$data/medical_qa_heldout.json" -- compare

step merged "$work/lora.done" -- \
  "$bin/lora-merge" --model_name_or_path "$work/base" --adapter_name_or_path "$work/lora" --output_dir "$work/merged" \
  --verify

say "208 questions in wordings that medical_qa.json does not have"
cat "$work/compare.txt"
say "the same with the answers: $work/compare.html; the LoRA run: $work/lora/report.html"

say "three answers of the merged model"
for question in "能介绍一下肺癌的典型表现吗？" "请简单说说高血压的治疗方法。" "能介绍一下阿司匹林的主要用途吗？"; do
  printf '%s\n  %s\n' "$question" "$("$bin/lora-generate" --model_name_or_path "$work/merged" --prompt "$question" \
    --max_new_tokens 48)"
done
