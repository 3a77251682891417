#!/usr/bin/env bash
# Everything that needs a CUDA device, in one command and without a network: the kernels' cases, every op and whole
# trainings on the device, the kernels' cases under compute-sanitizer, the benchmarks. What is missing is said in a line,
# and again at the end.
#   tests/gpu.sh [STEP...]  steps: suite ops faults memcheck racecheck synccheck initcheck bench peft; without: all, in this order
#   tests/gpu.sh --pack     collects what build/ holds into build/gpu_pack, for a machine that cannot build: copy that
#                           folder there and run run.sh in it, which is this script. It needs python3's torch of the
#                           version that the build linked, or RANKFOLD_TORCH=<torch folder>.
# Without finished binaries it builds them: as tests/run.sh does, or, where nothing can be installed, with
# RANKFOLD_DEPS=<prefix>: a folder with include, lib and share of sentencepiece, PCRE2, nlohmann_json, CLI11, GoogleTest
# and Boost.Context (`dpkg -x` of Debian's packages gives one in <folder>/usr), and python3's torch.
#   COMPUTE_SANITIZER=<program>  where it is not on PATH or in /usr/local/cuda/bin
#   RANKFOLD_INSTANTS=<count>    kills and signals of faults (default 6)
#   RANKFOLD_WORK=<folder>       where peft puts a random model of 7 B parameters (default build/bench)
#   RANKFOLD_GPU_FILTER=<filter> the tests that run under it (GoogleTest's filter, default *KernelTest*)
# Exit code: 0, 1 where a step failed, 77 where there is no device.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
filter=${RANKFOLD_GPU_FILTER:-*KernelTest*}
programs=(gpu_tests fused_tests faults_tests rankfold-bench lora-train lora-merge lora-eval lora-generate)
against_peft=$here/bench/against_peft.py
packed=false
if [[ -f $here/torch_version ]]; then
  packed=true
  against_peft=$here/tests/bench/against_peft.py
fi

give_up() {
  echo "gpu.sh: $*" >&2
  exit 1
}
torch_folder() {
  local find="import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
  echo "${RANKFOLD_TORCH:-$(python3 -c "$find" 2>/dev/null)}"
}
torch_version() { sed -n "s/^__version__ = '\(.*\)'/\1/p" "$1/version.py"; }

pack() {
  local build=$here/../build to=$here/../build/gpu_pack program library torch
  rm -rf "$to"
  mkdir -p "$to/bin" "$to/lib"
  for program in "${programs[@]}"; do
    if [[ -x $build/bin/$program ]]; then
      cp "$build/bin/$program" "$to/bin/"
    else
      echo "gpu.sh: $program is not built: left out"
    fi
  done
  [[ -f $build/lib/librankfold_cuda.so ]] || give_up "librankfold_cuda.so is not built"
  if grep -q '^RANKFOLD_CUDA_ARCHITECTURES:STRING=80;90;120$' "$build/CMakeCache.txt"; then
    give_up "tests/run.sh has built the kernels for three of six architectures; for all of them:" \
      "(cd $here/.. && cmake build -URANKFOLD_CUDA_ARCHITECTURES && cmake --build build)"
  fi
  cp "$build/lib/librankfold_cuda.so" "$build"/lib/librankfold.so.? "$to/lib/"
  [[ ! -x $to/bin/faults_tests ]] || cp "$build"/lib/libfaults_shim.so "$to/lib/"
  # What these link and neither torch nor every Linux machine has.
  ldd "$to/lib/"librankfold.so.? "$to"/bin/* | awk '$3 ~ "/lib(sentencepiece|protobuf|absl|boost|pcre2)" { print $3 }' |
    while read -r library; do cp -L "$library" "$to/lib/"; done
  torch=$(sed -n 's/^LibTorch_INCLUDE_DIR:[A-Z]*=\(.*\)\/include$/\1/p' "$build/CMakeCache.txt")
  torch_version "$torch" >"$to/torch_version"
  mkdir -p "$to/tests/bench" "$to/tests/oracle"
  cp "$here"/bench/{against_peft,common}.py "$to/tests/bench/"
  cp "$here/oracle/baichuan.py" "$to/tests/oracle/"
  cp "${BASH_SOURCE[0]}" "$to/run.sh"
  echo "gpu.sh: $(cd "$to" && pwd), $(du -sh "$to" | cut -f1), for torch $(<"$to/torch_version")"
}

# Sets bin, and the library path of a pack.
find_programs() {
  local torch folder
  if $packed; then
    bin=$here/bin
    torch=$(torch_folder)
    [[ -f $torch/lib/libtorch_cuda.so ]] ||
      give_up "python3 has no torch with CUDA; RANKFOLD_TORCH=<torch folder> names one"
    [[ $(torch_version "$torch") == "$(<"$here/torch_version")" ]] ||
      echo "gpu.sh: built with torch $(<"$here/torch_version"), here is $(torch_version "$torch"): may not load"
    LD_LIBRARY_PATH=$here/lib:$torch/lib
    for folder in "$torch"/../nvidia/*/lib; do LD_LIBRARY_PATH+=:$folder; done
    export LD_LIBRARY_PATH
    return
  fi
  bin=$here/../build/bin
  if [[ -x $bin/gpu_tests ]]; then return; fi
  if [[ -z ${RANKFOLD_DEPS:-} ]]; then
    # shellcheck source=cmake/prepare.sh
    source "$here/../cmake/prepare.sh"
    prepare tests rankfold_cuda "${programs[@]}"
  else
    bin=$here/../build-gpu/bin
    torch=$(torch_folder)
    cmake -G Ninja -S "$here/.." -B "$here/../build-gpu" -DCMAKE_PREFIX_PATH="$torch;$RANKFOLD_DEPS" \
      -DRANKFOLD_CUDA=ON -DRANKFOLD_TESTS=ON
    cmake --build "$here/../build-gpu" --target rankfold_cuda "${programs[@]}"
  fi
}

sanitizer() {
  local program
  for program in "${COMPUTE_SANITIZER:-}" "$(command -v compute-sanitizer)" /usr/local/cuda/bin/compute-sanitizer; do
    if [[ -x $program ]]; then echo "$program"; return; fi
  done
}

missing=() failed=()
note_missing() {
  echo "gpu.sh: $1: not run, $2"
  missing+=("$1")
}
attempt() {  # NAME COMMAND...
  local name=$1 begin=$SECONDS
  shift
  echo "== $name: $*"
  if "$@"; then
    echo "== $name: passed in $((SECONDS - begin)) s"
  else
    echo "== $name: FAILED (exit code $?)"
    failed+=("$name")
  fi
}

step() {
  local program
  case $1 in
    suite)
      if [[ -x $bin/gpu_tests ]]; then
        attempt suite "$bin/gpu_tests"
      else
        note_missing suite "there is no gpu_tests"
      fi ;;
    ops)
      if [[ -x $bin/fused_tests ]]; then
        attempt ops "$bin/fused_tests" --device=cuda
      else
        note_missing ops "there is no fused_tests"
      fi ;;
    faults)
      if [[ -x $bin/faults_tests && -x $bin/lora-train ]]; then
        attempt faults "$bin/faults_tests" --device=cuda --programs="$bin" --instants="${RANKFOLD_INSTANTS:-6}" \
          --signals="${RANKFOLD_INSTANTS:-6}" --gtest_filter=KillInstants.*:Chain.*:SignalInstants.*
      else
        note_missing faults "there is no faults_tests or lora-train"
      fi ;;
    memcheck | racecheck | synccheck | initcheck)
      program=$(sanitizer)
      if [[ -z $program ]]; then
        note_missing "$1" "there is no compute-sanitizer (COMPUTE_SANITIZER)"
      elif [[ ! -x $bin/gpu_tests ]]; then
        note_missing "$1" "there is no gpu_tests"
      elif [[ $("$bin/gpu_tests" --gtest_list_tests --gtest_filter="$filter") != *$'\n  '* ]]; then
        note_missing "$1" "no test is called $filter"
      else
        attempt "$1" "$program" --tool "$1" --error-exitcode 1 --print-limit 20 \
          "$bin/gpu_tests" --gtest_filter="$filter" --gtest_brief=1
      fi ;;
    bench)
      if [[ -x $bin/rankfold-bench ]]; then
        attempt bench "$bin/rankfold-bench" --device cuda --shapes 7b
      else
        note_missing bench "there is no rankfold-bench"
      fi ;;
    peft)
      if [[ ! -x $bin/lora-train ]]; then
        note_missing peft "there is no lora-train"
      elif ! python3 -c 'import peft, torch, transformers' 2>/dev/null; then
        note_missing peft "python3 has no torch, transformers and peft"
      else
        RANKFOLD_BIN=$bin attempt peft python3 "$against_peft" --device cuda --shapes 7b --length 512 --models w_pack \
          --dtypes bf16 --variants rankfold peft peft_tuned --rounds 1 ${RANKFOLD_WORK:+--work "$RANKFOLD_WORK"}
      fi ;;
    *) echo "gpu.sh: unknown step $1" >&2; exit 2 ;;
  esac
}

if [[ ${1:-} == --pack ]]; then
  if $packed; then give_up "this is a pack"; fi
  pack
  exit
fi
if ! nvidia-smi -L 2>/dev/null | grep '^GPU'; then
  echo "gpu.sh: nothing was run: nvidia-smi shows no device"
  exit 77
fi
find_programs
(($# > 0)) || set -- suite ops faults memcheck racecheck synccheck initcheck bench peft
for name in "$@"; do step "$name"; done
((${#missing[@]} == 0)) || echo "gpu.sh: not run: ${missing[*]}"
if ((${#failed[@]})); then
  echo "gpu.sh: failed: ${failed[*]}"
  exit 1
fi
echo "gpu.sh: what was run passed"
