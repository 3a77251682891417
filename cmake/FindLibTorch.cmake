# LibTorch without the CUDA toolkit that torch's own package insists on. Looks in CMAKE_PREFIX_PATH (a torch folder, an
# unpacked LibTorch, or torch.utils.cmake_prefix_path), then in the Python interpreter's torch package.
#   LibTorch::cpu    libtorch_cpu + libc10 and their headers
#   LibTorch::cuda   libtorch_cuda + libc10_cuda, and the libcudart and libcublasLt that they run with, where this
#                    LibTorch has them (no CUDA headers: those come from the toolkit)
#   LibTorch_ROOT_DIR, LibTorch_VERSION

set(_hints ${CMAKE_PREFIX_PATH})
foreach(_prefix IN LISTS CMAKE_PREFIX_PATH)
  cmake_path(SET _up NORMALIZE "${_prefix}/../..")  # torch/share/cmake -> torch
  list(APPEND _hints ${_up})
endforeach()
find_path(LibTorch_INCLUDE_DIR ATen/ATen.h HINTS ${_hints} PATH_SUFFIXES include NO_DEFAULT_PATH)
if(NOT LibTorch_INCLUDE_DIR)
  find_program(LibTorch_PYTHON NAMES python3 python)
  if(LibTorch_PYTHON)
    execute_process(COMMAND ${LibTorch_PYTHON} -c
                            "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
                    OUTPUT_VARIABLE _torch ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    find_path(LibTorch_INCLUDE_DIR ATen/ATen.h HINTS "${_torch}/include" NO_DEFAULT_PATH)
  endif()
endif()
if(LibTorch_INCLUDE_DIR)
  cmake_path(GET LibTorch_INCLUDE_DIR PARENT_PATH LibTorch_ROOT_DIR)
  find_library(LibTorch_CPU_LIBRARY torch_cpu HINTS ${LibTorch_ROOT_DIR}/lib NO_DEFAULT_PATH)
  find_library(LibTorch_C10_LIBRARY c10 HINTS ${LibTorch_ROOT_DIR}/lib NO_DEFAULT_PATH)
  file(GLOB _version_files "${LibTorch_ROOT_DIR}/version.py" "${LibTorch_ROOT_DIR}/build-version")
  foreach(_file IN LISTS _version_files)
    file(READ ${_file} _text)
    if(_text MATCHES "([0-9]+\\.[0-9]+\\.[0-9]+)")
      set(LibTorch_VERSION ${CMAKE_MATCH_1})
    endif()
  endforeach()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch REQUIRED_VARS LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "Pass -DCMAKE_PREFIX_PATH=<torch folder>, or let examples/quickstart.sh --build-only set it up")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  # What libtorch_cpu itself needs (libcupti, libcudart in the PyPI wheel) lies in the sibling nvidia packages; torch's
  # own run path finds it, the linker must be told.
  file(GLOB _nvidia "${LibTorch_ROOT_DIR}/../nvidia/*/lib")
  set(_rpath_link "")
  foreach(_folder IN LISTS _nvidia)
    cmake_path(NORMAL_PATH _folder)
    string(APPEND _rpath_link ",-rpath-link,${_folder}")
  endforeach()
  add_library(LibTorch::c10 SHARED IMPORTED)
  set_target_properties(LibTorch::c10 PROPERTIES IMPORTED_LOCATION ${LibTorch_C10_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_INCLUDE_DIR};${LibTorch_INCLUDE_DIR}/torch/csrc/api/include"
    INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${LibTorch_INCLUDE_DIR};${LibTorch_INCLUDE_DIR}/torch/csrc/api/include")
  add_library(LibTorch::cpu SHARED IMPORTED)
  set_target_properties(LibTorch::cpu PROPERTIES IMPORTED_LOCATION ${LibTorch_CPU_LIBRARY}
    INTERFACE_LINK_LIBRARIES LibTorch::c10
    INTERFACE_LINK_OPTIONS "LINKER:-rpath-link,${LibTorch_ROOT_DIR}/lib${_rpath_link}")

  # A process must have one CUDA runtime: the one that torch loads, not the toolkit's. The wheels have no unversioned
  # names, hence the patterns.
  foreach(_name torch_cuda c10_cuda cudart cublasLt)
    set(_library "")
    foreach(_folder ${LibTorch_ROOT_DIR}/lib ${_nvidia})
      file(GLOB _found "${_folder}/lib${_name}.so" "${_folder}/lib${_name}.so.[0-9]*" "${_folder}/lib${_name}-*.so.*")
      if(_found AND NOT _library)
        list(GET _found 0 _library)
        cmake_path(NORMAL_PATH _library)
      endif()
    endforeach()
    if(_library)
      add_library(LibTorch::${_name} SHARED IMPORTED)
      set_target_properties(LibTorch::${_name} PROPERTIES IMPORTED_LOCATION ${_library})
    endif()
  endforeach()
  if(TARGET LibTorch::torch_cuda AND TARGET LibTorch::c10_cuda AND TARGET LibTorch::cudart
     AND TARGET LibTorch::cublasLt)
    add_library(LibTorch::cuda INTERFACE IMPORTED)
    # Linked for what it registers, too, hence --no-as-needed.
    set_target_properties(LibTorch::cuda PROPERTIES INTERFACE_LINK_OPTIONS LINKER:--no-as-needed
      INTERFACE_LINK_LIBRARIES
      "LibTorch::cpu;LibTorch::torch_cuda;LibTorch::c10_cuda;LibTorch::cudart;LibTorch::cublasLt")
  endif()
endif()
mark_as_advanced(LibTorch_INCLUDE_DIR LibTorch_CPU_LIBRARY LibTorch_C10_LIBRARY LibTorch_PYTHON)
