# The harness must be able to fail: kernels with one planted fault each, and the report that each must cause.
#
# mutant(OPERATOR NAME FLAVOUR FILE FROM TO REPORT): FILE, a path below plugins/, with FROM replaced by TO.
function(mutant operator name flavour file from to report)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/mutants/${name})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${plugins}/${file})
  file(READ ${plugins}/${file} text)
  string(REPLACE "${from}" "${to}" mutated "${text}")
  if(mutated STREQUAL text)
    message(FATAL_ERROR "mutant ${name}: expected '${from}' in ${file}, found none. Adapt mutants.cmake to the kernel.")
  endif()
  file(MAKE_DIRECTORY ${folder})
  file(COPY_FILE ${plugins}/${operator}/kernel.cu ${folder}/kernel.cu ONLY_IF_DIFFERENT)
  get_filename_component(file_name ${file} NAME)
  file(CONFIGURE OUTPUT ${folder}/${file_name} CONTENT "${mutated}" @ONLY)

  objects(mutant_${name}_kernel ${flavour} ${folder}/kernel.cu)
  program(mutant_${name}
    ${operator}_test_${flavour} ${operator}_by_kernel_${flavour} mutant_${name}_kernel common_${flavour})
  add_test(NAME harness.catches.${name} COMMAND mutant_${name} ${${operator}_cases})
  set_tests_properties(harness.catches.${name} PROPERTIES
    PASS_REGULAR_EXPRESSION "${report}"
    ENVIRONMENT "TSAN_OPTIONS=halt_on_error=1;ASAN_OPTIONS=detect_leaks=0")
endfunction()

set(kernel token_compact/kernel.cu)
mutant(token_compact no_barrier_after_kept thread ${kernel}
  "__syncthreads();  // keptWords is complete" "" "ThreadSanitizer: data race")
mutant(token_compact no_barrier_after_count thread ${kernel}
  "__syncthreads();  // carriedBefore is complete" "" "ThreadSanitizer: data race")
# On a busy machine threads may meet so far apart that the sanitizer has forgotten the first access. An index that was read too
# early then tells: by wrong outputs, or by leading out of an array.
mutant(token_compact no_barrier_after_sources thread ${kernel}
  "__syncthreads();  // sources is complete" "" "ThreadSanitizer: (data race|heap-use-after-free)|failed: outputs.packed")
mutant(token_compact reads_one_score_too_many address ${kernel}
  "if (k < problem.length)" "if (k <= problem.length)" "AddressSanitizer: heap-buffer-overflow")
mutant(token_compact copies_one_vector_too_many address row_copy.cuh
  "kWarpSize < vectors)" "kWarpSize <= vectors)" "AddressSanitizer: heap-buffer-overflow")
mutant(token_compact rank_off_by_one address ${kernel}
  "(bit - 1U)" "((bit - 1U) | bit)" "failed: outputs.position == want.position")
mutant(token_compact threshold_not_inclusive address ${kernel}
  ">= problem.threshold" "> problem.threshold" "failed: outputs.count == want.count")
mutant(regroup copies_one_row_too_many address regroup/kernel.cu
  "if (row < copied)" "if (row <= copied)" "AddressSanitizer: heap-buffer-overflow|failed: to.hidden == want.hidden")
