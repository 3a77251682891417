#!/usr/bin/env bash
# From a bare Debian 12 machine to a trained, merged, talking model.
set -euo pipefail

usage="usage: examples/quickstart.sh [--build-only | --help]
Installs what is missing (Debian packages when root, PyTorch into build/venv), builds, then trains, compares and merges a
small medical question/answer model below build/quickstart. Nothing is downloaded but packages. A second run does no
work twice.
  --build-only  stop after the build: the programs are in build/bin"

build_only=false
case "${1:-}" in
  "") ;;
  --build-only) build_only=true ;;
  --help | -h) echo "$usage"; exit 0 ;;
  *) printf 'quickstart.sh: unknown argument %s\n%s\n' "$1" "$usage" >&2; exit 2 ;;
esac

# shellcheck source=cmake/prepare.sh
source "$(dirname "${BASH_SOURCE[0]}")/../cmake/prepare.sh"
prepare quickstart lora-train lora-merge lora-eval lora-generate lora-data make_tiny_model
if $build_only; then
  say "done: the programs are in $build/bin"
else
  "$root/examples/medical_qa/run.sh"
fi
