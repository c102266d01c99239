# SKIMRT_CUDA_ARCHITECTURES: by default SASS for every generation from Turing to Blackwell; PTX of the oldest for what lies
# between, of the newest for what comes after.
#
# Without those that the compiler does not know (nvcc has 100 and 120 since 12.8), one of which ends enable_language(CUDA)
# with an error. So this is included before it, when CMAKE_CUDA_COMPILER is known.
set(architectures 75 80 86 89 90 100 120)
execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch OUTPUT_VARIABLE known ERROR_QUIET)
string(REGEX MATCHALL "[0-9]+" known "${known}")
foreach(architecture ${architectures})
  if(known AND NOT architecture IN_LIST known)
    list(REMOVE_ITEM architectures ${architecture})
  endif()
endforeach()
list(POP_FRONT architectures oldest)
list(POP_BACK architectures newest)
list(TRANSFORM architectures APPEND "-real")
set(SKIMRT_CUDA_ARCHITECTURES ${oldest} ${architectures} ${newest} CACHE STRING "CUDA architectures")
set(CMAKE_CUDA_ARCHITECTURES ${SKIMRT_CUDA_ARCHITECTURES})
