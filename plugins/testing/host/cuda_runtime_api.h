// The CUDA runtime types and calls that kernel headers, plugin sources and TensorRT's headers name, for a host without
// CUDA. Test-only: put this folder first on the include path.
#pragma once

#include <cstddef>
#include <cstdint>

enum cudaError_t
{
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
};

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;

struct dim3
{
    unsigned int x, y, z;
    constexpr dim3(unsigned int x_ = 1, unsigned int y_ = 1, unsigned int z_ = 1)
        : x(x_)
        , y(y_)
        , z(z_)
    {
    }
};

struct cudaLaunchConfig_t
{
    dim3 gridDim;
    dim3 blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
};

inline char const* cudaGetErrorString(cudaError_t error)
{
    return error == cudaSuccess ? "no error" : error == cudaErrorInvalidValue ? "invalid argument" : "unknown error";
}
