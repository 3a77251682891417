#!/usr/bin/env bash
# run.sh BUILD: installs the library into an empty folder, builds examples/embed against it as a user would, and runs
# each of its programs. Also checks that the C++ of docs/library.md stands in those programs.
set -euo pipefail
build=$(cd "$1" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/prefix" >"$work/log" || { cat "$work/log"; exit 1; }
cmake -G Ninja -S "$root/examples/embed" -B "$work/embed" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Debug \
  -DCMAKE_CXX_FLAGS_DEBUG=-O0 \
  >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
cmake --build "$work/embed" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }

data=$root/examples/medical_qa
head -n 80 "$data/medical_qa.json" | sed '$s/,$/]/' >"$work/rows.json"
cd "$work"
"$build/bin/make_tiny_model" model "$data/medical_qa.json"

# says PATTERN COMMAND...: the command ends with 0 and prints a line that matches.
says() {
  local pattern=$1
  shift
  "$@" >log 2>&1 || { cat log; echo "package: $* failed"; exit 1; }
  cat log
  grep -qE "$pattern" log || { echo "package: $*: no line matches '$pattern'"; exit 1; }
}
says '^step 0  loss ' embed/embed model rows.json adapter
says 'gradient norm [0-9.]*[1-9]' embed/custom_loss model rows.json penalised
says '^saved run$' embed/trainer model rows.json run
grep -q '"adapter_norm"' run/train_log.jsonl
cp run/adapter_model.safetensors once.safetensors
says '^saved run$' embed/trainer model rows.json run  # there is nothing left to do
cmp run/adapter_model.safetensors once.safetensors
says ' answers are word for word$' embed/evaluate model adapter rows.json
says '^0 adapters are left; ' embed/adapters model adapter penalised rows.json merged
says '^answer 2, .* tokens, ' embed/generate model "糖尿病的症状是什么？" "高血压怎么治疗？"
says '^stopped$' embed/threads model one two three
says '^an adapter that is missing: std::invalid_argument: ' embed/errors model
for line in 'a folder that is missing: Error, exit code 2: .*model/nothing' \
  'a device that is missing: Error, exit code 3' 'a folder that cannot be written: StorageError, errno '; do
  grep -qE "^$line" log || { echo "package: errors: no line matches '$line'"; exit 1; }
done

# The installed programs find their library. The adapters are ones that they load; the merged folder is a model.
for adapter in adapter penalised run; do
  env -u LD_LIBRARY_PATH prefix/bin/lora-eval --model_name_or_path model --adapter_name_or_path "$adapter" \
    --dataset rows.json
done
env -u LD_LIBRARY_PATH prefix/bin/lora-eval --model_name_or_path merged --dataset rows.json
for program in embed custom_loss trainer evaluate adapters generate threads errors; do
  arguments=(nothing rows.json adapter)
  case $program in
    evaluate) arguments=(nothing adapter rows.json) ;;
    adapters) arguments=(nothing adapter penalised rows.json merged-again) ;;
    errors) arguments=(nothing) ;;
  esac
  if embed/"$program" "${arguments[@]}" >log 2>&1; then
    echo "package: $program: a missing model was not refused"
    exit 1
  fi
  grep -q "^$program: .*nothing" log || { cat log; echo "package: $program did not name the missing model"; exit 1; }
done

library=$(find prefix -name librankfold.so)
readelf -d "$library" | grep NEEDED >log
if grep -qiE 'cuda|cudnn|cublas' log; then echo "librankfold.so links a CUDA library"; cat log; exit 1; fi

# Every line of a block of C++ in the page is a line of a program, wherever it is indented.
sed 's/^ *//' "$root"/examples/embed/*.cpp >lines
awk '/^```cpp$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$root/docs/library.md" |
  sed 's/^ *//' | grep . >quotes
[[ $(wc -l <quotes) -gt 20 ]]
while IFS= read -r line; do
  grep -qFx -- "$line" lines || { echo "package: docs/library.md: no program of examples/embed has: $line"; exit 1; }
done <quotes
echo "package: installed, built against, ran"
