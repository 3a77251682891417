# shellcheck shell=bash disable=SC2154
# The CUDA compiler; to be sourced by prepare.sh. nvcc becomes the path of one, or stays empty: then the build has no
# librankfold_cuda.so and everything else is as it is. RANKFOLD_NVCC chooses: a path; "wheels", which overlooks the
# system's toolkit; "none".
nvcc=

has_device() { nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }
is_new_enough() { "$1" --version 2>/dev/null | grep -qE 'release 1[3-9]\.'; }

# PyPI has a whole nvcc, in the folder where torch's own wheels put their libraries and headers. All of one version:
# a newer nvvm writes what ptxas does not read.
install_nvcc() {
  local wanted stamp=$venv/rankfold-nvcc.stamp
  mapfile -t wanted < <(grep '^nvidia-' "$root/cmake/requirements.txt")
  if ! [[ -f $stamp && $(<"$stamp") == "${wanted[*]}" ]]; then
    say "installing into build/venv: ${wanted[*]}"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "${wanted[@]}" ||
      die "pip could not install ${wanted[*]}; RANKFOLD_NVCC=none builds without CUDA"
    printf '%s' "${wanted[*]}" >"$stamp"
  fi
  nvcc=$(echo "$venv"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc)
}

# find_nvcc SCOPE: the tests compile the kernels on every machine; otherwise one without a device brings no nvcc.
find_nvcc() {
  local candidate
  case ${RANKFOLD_NVCC:-} in
    none) ;;
    wheels) install_nvcc ;;
    "")
      for candidate in "$(command -v nvcc)" /usr/local/cuda/bin/nvcc; do
        if [[ -x $candidate ]] && is_new_enough "$candidate"; then
          nvcc=$candidate
          break
        fi
      done
      if [[ -z $nvcc ]] && { [[ $1 == tests || -f $venv/rankfold-nvcc.stamp ]] || has_device; }; then
        install_nvcc
      fi ;;
    *) nvcc=$RANKFOLD_NVCC ;;
  esac
  if [[ -z $nvcc ]]; then
    say "CUDA compiler: none; only the CPU side is built"
  else
    is_new_enough "$nvcc" || die "$nvcc does not run, or is older than 13"
    say "CUDA compiler: $nvcc"
  fi
}
