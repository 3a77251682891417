#!/usr/bin/env bash
# Installs what is missing, builds, runs every test. Arguments go to ctest: tests/run.sh -L fast
set -euo pipefail
# shellcheck source=cmake/prepare.sh
source "$(dirname "${BASH_SOURCE[0]}")/../cmake/prepare.sh"
prepare tests
say "testing"
ctest --test-dir "$build" --output-on-failure --parallel "$(nproc)" "$@"
