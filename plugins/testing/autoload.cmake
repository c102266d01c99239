# The library that registers the plugins when it is loaded, with a stand-in for libnvinfer and without one.
add_library(fake_nvinfer SHARED fake_nvinfer.cpp)
target_link_libraries(fake_nvinfer PRIVATE tensorrt_headers warnings)
target_include_directories(fake_nvinfer PRIVATE host)
# It has to override what TensorRT 10 declares, deprecated or not.
target_compile_options(fake_nvinfer PRIVATE -Wno-deprecated-declarations)
set_target_properties(fake_nvinfer PROPERTIES
  OUTPUT_NAME nvinfer
  SOVERSION ${TensorRT_VERSION_MAJOR}
  LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})

objects(autoload_test_objects plain autoload_test.cpp)
program(autoload_with_tensorrt autoload_test_objects)
target_link_libraries(autoload_with_tensorrt PRIVATE -Wl,--no-as-needed fake_nvinfer)
program(autoload_without_tensorrt autoload_test_objects)

add_test(NAME autoload.hands_over_the_plugins
  COMMAND autoload_with_tensorrt $<TARGET_FILE:skimrt_autoload>
    $<TARGET_FILE_DIR:skimrt_autoload>/libskimrt_plugins.so)
add_test(NAME autoload.says_that_there_is_no_tensorrt
  COMMAND autoload_without_tensorrt $<TARGET_FILE:skimrt_autoload> "")
set_tests_properties(autoload.says_that_there_is_no_tensorrt PROPERTIES
  PASS_REGULAR_EXPRESSION "expected libnvinfer.so.${TensorRT_VERSION_MAJOR} among.*2 checks, 0 failed")
