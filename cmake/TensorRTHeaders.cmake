# The target `tensorrt_headers`: NvInfer*.h of TensorRT 10.14 or newer. No TensorRT library is needed, since the plugin
# library meets TensorRT only through virtual functions.
#
# From TENSORRT_ROOT (a CMake or environment variable) if given, else from the wheel kernel-lens, which carries the
# headers of 10.14.1 and is fetched with pip into the build folder.
set(TENSORRT_ROOT "$ENV{TENSORRT_ROOT}" CACHE PATH "Folder of a TensorRT installation")

set(wheel_requirement kernel-lens==2.0.1)
set(wheel_sha256 07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0)

if(TENSORRT_ROOT)
  find_path(TensorRT_INCLUDE_DIR NvInfer.h PATHS ${TENSORRT_ROOT}/include ${TENSORRT_ROOT} NO_DEFAULT_PATH NO_CACHE)
  if(NOT TensorRT_INCLUDE_DIR)
    message(FATAL_ERROR "TENSORRT_ROOT: expected NvInfer.h in ${TENSORRT_ROOT}/include, found none. "
      "Point TENSORRT_ROOT to a TensorRT installation, or leave it empty to use the wheel ${wheel_requirement}.")
  endif()
else()
  set(wheel_folder ${PROJECT_BINARY_DIR}/tensorrt_headers)
  set(TensorRT_INCLUDE_DIR ${wheel_folder}/kernel_lens/include/tensorrt)
  if(NOT EXISTS ${TensorRT_INCLUDE_DIR}/NvInfer.h)
    find_package(Python3 REQUIRED COMPONENTS Interpreter)
    execute_process(
      COMMAND ${Python3_EXECUTABLE} -m pip download --quiet --disable-pip-version-check --no-deps
        --dest ${wheel_folder} ${wheel_requirement}
      RESULT_VARIABLE status ERROR_VARIABLE reason)
    file(GLOB wheel ${wheel_folder}/kernel_lens-*.whl)
    if(NOT status EQUAL 0 OR NOT wheel)
      message(FATAL_ERROR "TensorRT headers: pip could not fetch ${wheel_requirement}: ${reason}\n"
        "Set TENSORRT_ROOT to a TensorRT installation of 10.14 or newer.")
    endif()
    file(SHA256 ${wheel} found_sha256)
    if(NOT found_sha256 STREQUAL wheel_sha256)
      file(REMOVE ${wheel})
      message(FATAL_ERROR "TensorRT headers: expected SHA-256 ${wheel_sha256} of ${wheel_requirement}, "
        "found ${found_sha256}. Nothing was unpacked; set TENSORRT_ROOT instead.")
    endif()
    file(ARCHIVE_EXTRACT INPUT ${wheel} DESTINATION ${wheel_folder} PATTERNS "kernel_lens/include/tensorrt/*")
  endif()
endif()

file(STRINGS ${TensorRT_INCLUDE_DIR}/NvInferVersion.h version_lines REGEX "define TRT_(MAJOR|MINOR)_ENTERPRISE")
string(REGEX REPLACE ".*MAJOR_ENTERPRISE ([0-9]+).*" "\\1" TensorRT_VERSION_MAJOR "${version_lines}")
string(REGEX REPLACE ".*MINOR_ENTERPRISE ([0-9]+).*" "\\1" TensorRT_VERSION_MINOR "${version_lines}")
set(TensorRT_VERSION ${TensorRT_VERSION_MAJOR}.${TensorRT_VERSION_MINOR})
if(TensorRT_VERSION VERSION_LESS 10.14)
  message(FATAL_ERROR "TensorRT headers: expected 10.14 or newer, found ${TensorRT_VERSION} in ${TensorRT_INCLUDE_DIR}")
endif()
message(STATUS "TensorRT headers: ${TensorRT_VERSION} in ${TensorRT_INCLUDE_DIR}")

add_library(tensorrt_headers INTERFACE)
target_include_directories(tensorrt_headers SYSTEM INTERFACE ${TensorRT_INCLUDE_DIR})
