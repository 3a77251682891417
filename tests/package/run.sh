#!/usr/bin/env bash
# run.sh BUILD: installs the library into an empty folder, builds examples/embed against it as a user would, and runs it.
set -euo pipefail
build=$(cd "$1" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/prefix" >"$work/log" || { cat "$work/log"; exit 1; }
cmake -G Ninja -S "$root/examples/embed" -B "$work/embed" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Debug \
  >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
cmake --build "$work/embed" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }

data=$root/examples/medical_qa
head -n 80 "$data/medical_qa.json" | sed '$s/,$/]/' >"$work/rows.json"
"$build/bin/make_tiny_model" "$work/model" "$data/medical_qa.json"
"$work/embed/embed" "$work/model" "$work/rows.json" "$work/adapter"
# The installed programs find their library, and the adapter is one they load.
env -u LD_LIBRARY_PATH "$work/prefix/bin/lora-eval" --model_name_or_path "$work/model" \
  --adapter_name_or_path "$work/adapter" --dataset "$work/rows.json"
if "$work/embed/embed" "$work/nothing" "$work/rows.json" "$work/adapter" 2>"$work/log"; then
  echo "a missing model was not refused"; exit 1
fi
grep -q '^embed: .*nothing' "$work/log"
library=$(find "$work/prefix" -name librankfold.so)
readelf -d "$library" | grep NEEDED >"$work/log"
if grep -qiE 'cuda|cudnn|cublas' "$work/log"; then echo "librankfold.so links a CUDA library"; cat "$work/log"; exit 1; fi
echo "package: installed, built against, ran"
