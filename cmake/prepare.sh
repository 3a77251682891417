# shellcheck shell=bash
# What examples/quickstart.sh and tests/run.sh share; to be sourced. Brings what is missing, configures and builds; what
# is there already is left alone.
#   prepare quickstart|tests [TARGET...]

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build
venv=$build/venv

# shellcheck source=cmake/nvcc.sh
source "$root/cmake/nvcc.sh"

say() { printf '== %s\n' "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

debian_packages=(g++ cmake ninja-build ccache python3-venv libsentencepiece-dev nlohmann-json3-dev libcli11-dev
                 libpcre2-dev libgtest-dev libboost-context-dev)
test_packages=(clang libclang-rt-dev)  # libFuzzer

install_debian_packages() {  # SCOPE
  local wanted=("${debian_packages[@]}")
  [[ $1 != tests ]] || wanted+=("${test_packages[@]}")
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian system: what Debian calls ${wanted[*]} must be there"
    return
  fi
  local missing=() package
  for package in "${wanted[@]}"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    say "Debian packages: there"
    return
  fi
  ((EUID == 0)) || die "missing Debian packages; run: sudo apt-get install ${missing[*]}"
  say "installing Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || die "apt-get update failed; the packages needed are: ${missing[*]}"
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install: ${missing[*]}"
}

# Installs the pinned packages of a scope into build/venv. A stamp holds what was installed last.
install_python_packages() {
  local pattern='^[a-z]' wanted stamp=$venv/rankfold-$1.stamp
  [[ $1 != quickstart ]] || pattern='^torch=='
  mapfile -t wanted < <(grep "$pattern" "$root/cmake/requirements.txt" | grep -v '^nvidia-')  # those: nvcc.sh
  if [[ -f $stamp && $(<"$stamp") == "${wanted[*]}" ]]; then
    say "Python packages: there"
    return
  fi
  say "installing into build/venv: ${wanted[*]} (torch takes 5 GB and a minute or two)"
  [[ -x $venv/bin/python ]] || python3 -m venv "$venv" || die "python3 -m venv failed; is python3-venv installed?"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${wanted[@]}" ||
    die "pip could not install ${wanted[*]}; is the package index reachable and the disk not full?"
  printf '%s' "${wanted[*]}" >"$stamp"
}

# What the kernels are compiled for: all that cmake/cuda.cmake lists (empty), but for tests without a device, where three
# generations spare minutes. RANKFOLD_CUDA_ARCHITECTURES chooses: "80;90".
cuda_architectures() {  # SCOPE
  if [[ -n ${RANKFOLD_CUDA_ARCHITECTURES:-} ]]; then
    echo "$RANKFOLD_CUDA_ARCHITECTURES"
  elif [[ $1 == tests ]] && ! has_device; then
    echo '80;90;120'
  fi
}

# Configures once, and again for another nvcc, other architectures or changed presets; afterwards ninja runs CMake when a
# list of sources changed.
build_targets() {  # SCOPE TARGET...
  local torch scope=$1 architectures='' cuda=(-DRANKFOLD_CUDA=OFF)
  shift
  torch=$(echo "$venv"/lib/python3*/site-packages/torch)
  if [[ -n $nvcc ]]; then
    architectures=$(cuda_architectures "$scope")
    cuda=(-DRANKFOLD_CUDA=AUTO -DRANKFOLD_NVCC="$nvcc" -URANKFOLD_CUDA_ARCHITECTURES)
    [[ -z $architectures ]] || cuda+=(-DRANKFOLD_CUDA_ARCHITECTURES="$architectures")
  fi
  if ! [[ $build/build.ninja -nt $root/CMakePresets.json && -f $build/rankfold-nvcc.stamp &&
    $(<"$build/rankfold-nvcc.stamp") == "$nvcc $architectures" ]]; then
    say "configuring"
    (cd "$root" && cmake --preset default -DCMAKE_PREFIX_PATH="$torch" -DRANKFOLD_TESTS=ON "${cuda[@]}") \
      >"$build/configure.log" 2>&1 ||
      { tail -n 20 "$build/configure.log" >&2; die "cmake failed: the whole output is in build/configure.log"; }
    printf '%s' "$nvcc $architectures" >"$build/rankfold-nvcc.stamp"
  fi
  say "building $*"
  cmake --build "$build" --parallel "$(nproc)" --target "$@" || die "the build failed"
}

# A build of its own by a preset of CMakePresets.json, in build/NAME; prepare comes first.
build_preset() {
  local torch
  torch=$(echo "$venv"/lib/python3*/site-packages/torch)
  if ! [[ $build/$1/build.ninja -nt $root/CMakePresets.json ]]; then
    say "configuring $1"
    (cd "$root" && cmake --preset "$1" -DCMAKE_PREFIX_PATH="$torch") >"$build/configure-$1.log" 2>&1 ||
      { tail -n 20 "$build/configure-$1.log" >&2; die "cmake failed: the whole output is in build/configure-$1.log"; }
  fi
  say "building $1"
  cmake --build "$build/$1" --parallel "$(nproc)" || die "the build of $1 failed"
}

prepare() {
  local scope=$1
  shift
  install_debian_packages "$scope"
  install_python_packages "$scope"
  find_nvcc "$scope"
  if (($# > 0)) && [[ -n $nvcc ]] && has_device; then set -- "$@" rankfold_cuda; fi
  build_targets "$scope" "${@:-all}"
}
