# The target `warnings`: every target of ours links it. Warnings are errors.
add_library(warnings INTERFACE)
set(cxx_warnings -Wall -Wextra -Wshadow -Werror)
list(JOIN cxx_warnings "," host_warnings)
target_compile_options(warnings INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${cxx_warnings}>"
  "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings -Xcompiler=${host_warnings}>")
