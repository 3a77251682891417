#!/usr/bin/env bash
# Installs what is missing, builds, runs every test. Arguments go to ctest: tests/run.sh -L fast
# The builds with sanitizers (label sanitize) are made where one of their tests is wanted.
set -euo pipefail
# shellcheck source=cmake/prepare.sh
source "$(dirname "${BASH_SOURCE[0]}")/../cmake/prepare.sh"
prepare tests
wanted=$(ctest --test-dir "$build" -N "$@")
for preset in asan tsan; do
  if grep -q ": ${preset}_" <<<"$wanted"; then build_preset "$preset"; fi
done
if grep -q ": fuzzer_" <<<"$wanted" && command -v clang++ >/dev/null &&
  [[ -f $(clang++ -print-file-name="libclang_rt.fuzzer-$(uname -m).a") ]]; then
  build_preset fuzzer
fi
say "testing"
ctest --test-dir "$build" --output-on-failure --parallel "$(nproc)" "$@"
