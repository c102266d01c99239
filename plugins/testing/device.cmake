# The same test programs on a CUDA device; without one they end with status 77 and count as skipped.
if(NOT SKIMRT_WITH_CUDA)
  add_test(NAME device COMMAND ${CMAKE_COMMAND} -E echo "SKIP: built without CUDA")
  set_tests_properties(device PROPERTIES SKIP_REGULAR_EXPRESSION "SKIP:" LABELS gpu)
  return()
endif()

# device_objects(NAME SOURCE...): as objects(), against the real CUDA runtime.
function(device_objects name)
  add_library(${name} OBJECT ${ARGN})
  target_include_directories(${name} PRIVATE ${plugins} ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_link_libraries(${name} PRIVATE warnings)
endfunction()

device_objects(device device.cpp)
foreach(operator token_compact regroup)
  device_objects(${operator}_on_device ${operator}_on_device.cpp)
  program(${operator}_device ${operator}_test_plain ${operator}_on_device device kernels common_plain)
  set_target_properties(${operator}_device PROPERTIES LINKER_LANGUAGE CUDA)
  add_test(NAME ${operator}.device COMMAND ${operator}_device ${${operator}_cases})
  set_tests_properties(${operator}.device PROPERTIES SKIP_RETURN_CODE 77 LABELS gpu)
endforeach()

device_objects(token_compact_benchmark_objects token_compact_benchmark.cpp)
program(token_compact_benchmark token_compact_benchmark_objects device kernels)
set_target_properties(token_compact_benchmark PROPERTIES LINKER_LANGUAGE CUDA)
