// TokenCompact on a CUDA device.
#pragma once

#include "token_compact/operator.h"

#include <cuda_runtime_api.h>

namespace skimrt
{

// Puts one kernel on `stream` and returns: no allocation, no synchronisation, no host read of device data, so the
// call may be captured into a CUDA graph. Every pointer is device memory, aligned to its element; rows move 16 bytes
// at a time when their size and both addresses are multiples of 16.
// Returns cudaErrorInvalidValue for a problem out of range, else what the launch returned.
cudaError_t tokenCompact(TokenCompactProblem const& problem, cudaStream_t stream) noexcept;

}  // namespace skimrt

// The same as a C function of the plugin library, for whatever calls the kernel without TensorRT. binding.py declares
// the structure anew, so a change of it counts up the ABI version. skimrt_error_string() has the text of a code.
extern "C" int32_t skimrt_token_compact(skimrt::TokenCompactProblem const* problem, cudaStream_t stream);
