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

# evaluate NAME MODEL...: $work/NAME.json holds the result on the held-out wordings.
evaluate() {
  local name=$1
  shift
  step "eval-$name" "$work/$name.done" "$data/medical_qa_heldout.json" -- \
    "$bin/lora-eval" "$@" --dataset "$data/medical_qa_heldout.json" --terms terms --max_new_tokens 48 \
    --output "$work/$name.json" --predictions "$work/$name.answers.jsonl"
}

step tiny "$data/general_qa.json" -- \
  "$bin/make_tiny_model" "$work/tiny" "$data/general_qa.json"
step base "$work/tiny.done" configs/quickstart.json "$data/general_qa.json" -- \
  train --model_name_or_path "$work/tiny" --dataset "$data/general_qa.json" --finetuning_type full \
  --per_device_train_batch_size 32 --learning_rate 1.5e-3 --num_train_epochs 3.5 --output_dir "$work/base"
step lora "$work/base.done" configs/quickstart.json "$data/medical_qa.json" -- \
  train --output_dir "$work/lora"
step full "$work/base.done" configs/quickstart.json "$data/medical_qa.json" -- \
  train --finetuning_type full --learning_rate 5e-4 --num_train_epochs 8 --output_dir "$work/full"

evaluate base --model_name_or_path "$work/base"
evaluate lora --model_name_or_path "$work/base" --adapter_name_or_path "$work/lora"
evaluate full --model_name_or_path "$work/full"

step merged "$work/lora.done" -- \
  "$bin/lora-merge" --model_name_or_path "$work/base" --adapter_name_or_path "$work/lora" --output_dir "$work/merged" \
  --verify

# number FILE KEY: the last number with this key in a JSON file that we wrote.
number() { sed -n "s/.*\"$2\": *\([0-9.e+-]*\).*/\1/p" "$1" | tail -n 1; }

row() {
  local name=$1 label=$2 trained="-" training="-"
  if [[ $name != base ]]; then
    trained=$(sed -n 's/^trainable params: \([0-9,]*\) .*/\1/p' "$work/$name.log")
    training=$(number "$work/$name/train_log.jsonl" peak_memory_bytes)
  fi
  awk -v label="$label" -v accuracy="$(number "$work/$name.json" term_accuracy)" \
    -v speed="$(number "$work/$name.json" generate_tokens_per_second)" -v training="$training" -v trained="$trained" \
    -v answering="$(number "$work/$name.json" peak_memory_bytes)" 'BEGIN {
      memory = training == "-" ? "-" : sprintf("%.0f MB", training / 1e6)
      printf "| %-4s | %7.1f %% | %8.0f | %9s | %9.0f MB | %12s |\n",
             label, 100 * accuracy, speed, memory, answering / 1e6, trained }'
}

say "208 questions in wordings that medical_qa.json does not have"
echo "| run  |    terms  | tokens/s | train mem | answer mem   |    trainable |"
echo "| ---- | --------- | -------- | --------- | ------------ | ------------ |"
row base base
row lora LoRA
row full full

say "three answers of the merged model"
for question in "能介绍一下肺癌的典型表现吗？" "请简单说说高血压的治疗方法。" "能介绍一下阿司匹林的主要用途吗？"; do
  printf '%s\n  %s\n' "$question" "$("$bin/lora-generate" --model_name_or_path "$work/merged" --prompt "$question" \
    --max_new_tokens 48)"
done
