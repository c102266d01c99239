// Messages of the plugins, through the logger of the TensorRT that loaded this library.
#pragma once

#include <NvInferRuntime.h>
#include <string>

namespace skimrt
{

// TensorRT's way to the logger of the calling thread; null until the library is loaded through a plugin registry.
void useLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

// Reports an error; to standard error when there is no logger.
void logError(std::string const& message) noexcept;

}  // namespace skimrt
