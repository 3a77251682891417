# librankfold_cuda.so: the kernels (kernels/*.cu, by nvcc), products by cuBLASLt, and what joins both to LibTorch
# (src/cuda). librankfold.so opens it when a CUDA device is asked for, so nothing links it.
#
# nvcc is called by hand: Debian's CMake does not know C++20 for nvcc 13, and tests/gates.sh needs what ptxas
# says of each file, which goes to kernels/<file>.log in the build folder.

set(RANKFOLD_CUDA_BUILT OFF)
if(RANKFOLD_CUDA STREQUAL "AUTO" OR RANKFOLD_CUDA)
  find_program(RANKFOLD_NVCC nvcc HINTS /usr/local/cuda/bin DOC "nvcc 13 or newer")
  set(_missing "")
  if(NOT RANKFOLD_NVCC)
    set(_missing "there is no nvcc (RANKFOLD_NVCC)")
  elseif(NOT TARGET LibTorch::cuda)
    set(_missing "the LibTorch in ${LibTorch_ROOT_DIR} is built without CUDA")
  else()
    execute_process(COMMAND ${RANKFOLD_NVCC} --version OUTPUT_VARIABLE _version ERROR_QUIET)
    string(REGEX REPLACE ".*V([0-9]+[0-9.]*).*" "\\1" _version "${_version}")
    if(NOT _version VERSION_GREATER_EQUAL 13)
      set(_missing "${RANKFOLD_NVCC} is version ${_version} and 13 is needed")
    endif()
  endif()
  if(NOT _missing)
    set(RANKFOLD_CUDA_BUILT ON)
  elseif(RANKFOLD_CUDA STREQUAL "AUTO")
    message(STATUS "librankfold_cuda.so: not built, ${_missing}")
  else()
    message(FATAL_ERROR "RANKFOLD_CUDA is ON, but ${_missing}")
  endif()
endif()
if(NOT RANKFOLD_CUDA_BUILT)
  return()
endif()
message(STATUS "librankfold_cuda.so: with ${RANKFOLD_NVCC} ${_version}")

# The newest also as PTX, which a later device's driver translates.
set(RANKFOLD_CUDA_ARCHITECTURES 80 86 89 90 100 120 CACHE STRING "Compute capabilities that the kernels are built for")
set(_gencode "")
foreach(_arch IN LISTS RANKFOLD_CUDA_ARCHITECTURES)
  list(APPEND _gencode -gencode arch=compute_${_arch},code=sm_${_arch})
endforeach()
list(GET RANKFOLD_CUDA_ARCHITECTURES -1 _newest)
list(APPEND _gencode -gencode arch=compute_${_newest},code=compute_${_newest})

# The headers lie beside nvcc; some toolkits put cuBLAS elsewhere, LibTorch's wheels bring it too.
file(REAL_PATH ${RANKFOLD_NVCC} _nvcc)
cmake_path(GET _nvcc PARENT_PATH _toolkit)
cmake_path(GET _toolkit PARENT_PATH _toolkit)
find_path(RANKFOLD_CUDA_INCLUDE cuda_runtime_api.h HINTS ${_toolkit}/include ${_toolkit}/targets/x86_64-linux/include
          NO_DEFAULT_PATH REQUIRED)
find_path(RANKFOLD_CUBLAS_INCLUDE cublasLt.h HINTS ${RANKFOLD_CUDA_INCLUDE} ${LibTorch_ROOT_DIR}/../nvidia/cu13/include
          REQUIRED)
mark_as_advanced(RANKFOLD_NVCC RANKFOLD_CUDA_INCLUDE RANKFOLD_CUBLAS_INCLUDE)

file(GLOB _kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/*.cu)
file(GLOB _sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/kernels/*.cpp ${PROJECT_SOURCE_DIR}/src/cuda/*.cpp
     ${PROJECT_SOURCE_DIR}/src/ops/any_attention.cpp)
set(_nvcc_flags -std=c++20 -O3 -lineinfo --compress-mode=size ${_gencode} -I${PROJECT_SOURCE_DIR}
                -ccbin ${CMAKE_CXX_COMPILER} -Werror all-warnings --resource-usage
                -Xptxas -warn-spills,-warn-lmem-usage,-Werror
                -Xcompiler -Wall,-Wextra,-Werror,-fPIC,-fvisibility=hidden)
set(_objects "")
file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/kernels)
foreach(_kernel IN LISTS _kernels)
  cmake_path(GET _kernel STEM _stem)
  set(_object ${PROJECT_BINARY_DIR}/kernels/${_stem}.o)
  add_custom_command(
    OUTPUT ${_object} BYPRODUCTS ${PROJECT_BINARY_DIR}/kernels/${_stem}.log
    COMMAND ${CMAKE_CURRENT_LIST_DIR}/compile_kernel.sh ${PROJECT_BINARY_DIR}/kernels/${_stem}.log
            ${CMAKE_CXX_COMPILER_LAUNCHER} ${RANKFOLD_NVCC} ${_nvcc_flags} -MD -MF ${_object}.d -MT ${_object}
            -c ${_kernel} -o ${_object}
    DEPENDS ${_kernel} ${CMAKE_CURRENT_LIST_DIR}/compile_kernel.sh
    DEPFILE ${_object}.d
    COMMENT "Building CUDA object kernels/${_stem}.o" VERBATIM)
  list(APPEND _objects ${_object})
endforeach()

add_library(rankfold_cuda SHARED ${_sources} ${_objects})
set_source_files_properties(${_objects} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
target_include_directories(rankfold_cuda PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
target_include_directories(rankfold_cuda SYSTEM PRIVATE ${RANKFOLD_CUDA_INCLUDE} ${RANKFOLD_CUBLAS_INCLUDE})
target_link_libraries(rankfold_cuda PRIVATE LibTorch::cuda rankfold_warnings)
target_compile_features(rankfold_cuda PRIVATE cxx_std_20)
target_link_options(rankfold_cuda PRIVATE LINKER:--no-undefined)
set(_run_path "$ORIGIN" ${LibTorch_ROOT_DIR}/lib)
foreach(_library cudart cublasLt)
  get_target_property(_path LibTorch::${_library} IMPORTED_LOCATION)
  cmake_path(GET _path PARENT_PATH _path)
  list(APPEND _run_path ${_path})
endforeach()
list(REMOVE_DUPLICATES _run_path)
set_target_properties(rankfold_cuda PROPERTIES INSTALL_RPATH "${_run_path}")
install(TARGETS rankfold_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} OPTIONAL)  # the quickstart may not build it
