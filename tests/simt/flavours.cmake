# The kernels compiled by g++ for the CPU (tests/simt/device.h) and their tests, once for each flavour:
#   plain  as fast as it gets           asan  addresses and undefined behaviour           tsan  races between CUDA threads
# rankfold_simt_flavour(NAME) makes simt_engine_NAME, simt_kernels_NAME and, of the tests in this folder and the cases
# in tests/kernels, simt_tests_NAME, which is the test simt_NAME. Neither needs LibTorch, which no sanitizer has seen.
find_package(Boost 1.74 REQUIRED COMPONENTS context)
find_package(GTest REQUIRED)

set(RANKFOLD_SIMT_FOLDER ${CMAKE_CURRENT_LIST_DIR})

function(rankfold_simt_flavour flavour)
  if(flavour STREQUAL "plain")
    set(options -O2)
  elseif(flavour STREQUAL "asan")
    set(options -O1 -g1 -fsanitize=address ${RANKFOLD_UNDEFINED} -fno-sanitize-recover=all)
  elseif(flavour STREQUAL "tsan")
    set(options -O1 -g1 -fsanitize=thread)
  else()
    message(FATAL_ERROR "rankfold_simt_flavour: expected plain, asan or tsan, got ${flavour}")
  endif()
  # A kernel may write elements and read them as words.
  set(warnings -fno-strict-aliasing -Wall -Wextra -Werror -Wno-unknown-pragmas)
  set(root ${RANKFOLD_SIMT_FOLDER}/../..)

  add_library(simt_engine_${flavour} STATIC ${RANKFOLD_SIMT_FOLDER}/engine.cpp)
  target_include_directories(simt_engine_${flavour} PUBLIC ${root}/tests)
  target_link_libraries(simt_engine_${flavour} PUBLIC Boost::context)
  target_compile_features(simt_engine_${flavour} PUBLIC cxx_std_20)
  if(flavour STREQUAL "tsan")  # the engine's bookkeeping would be races: engine.cpp says more
    target_compile_options(simt_engine_tsan PRIVATE ${warnings} -O2 -g)
    target_compile_definitions(simt_engine_tsan PRIVATE RANKFOLD_SIMT_TSAN)
  else()
    target_compile_options(simt_engine_${flavour} PRIVATE ${warnings} ${options})
  endif()

  file(GLOB kernels CONFIGURE_DEPENDS ${root}/kernels/*.cu)
  set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX)  # CMake says -x c++
  add_library(simt_kernels_${flavour} STATIC ${kernels})
  target_include_directories(simt_kernels_${flavour} PUBLIC ${root})
  set_target_properties(simt_kernels_${flavour} PROPERTIES UNITY_BUILD OFF)  # a kernel's names are its file's own
  target_compile_options(simt_kernels_${flavour} PRIVATE ${warnings} ${options})
  target_link_libraries(simt_kernels_${flavour} PUBLIC simt_engine_${flavour})

  file(GLOB tests CONFIGURE_DEPENDS ${RANKFOLD_SIMT_FOLDER}/*_test.cpp ${root}/tests/kernels/*.cpp
       ${root}/tests/kernels/*.cu)
  set_source_files_properties(${root}/tests/kernels/ptx_kernels.cu PROPERTIES LANGUAGE CXX)
  add_executable(simt_tests_${flavour} ${tests})
  set_target_properties(simt_tests_${flavour} PROPERTIES UNITY_BUILD OFF)
  target_compile_options(simt_tests_${flavour} PRIVATE ${warnings} ${options})
  target_link_options(simt_tests_${flavour} PRIVATE ${options})
  target_link_libraries(simt_tests_${flavour} PRIVATE simt_kernels_${flavour} GTest::gtest_main)
  add_test(NAME simt_${flavour} COMMAND simt_tests_${flavour})
  set_tests_properties(simt_${flavour} PROPERTIES LABELS simt)
endfunction()
