// CUDA C++ for a host without CUDA: enough of the language to compile our .cu files unchanged with a C++ compiler and
// to run every thread of a block as a thread of the process, so that the sanitizers see what the threads do to memory.
//
// Only what CUDA orders is ordered: __syncthreads makes writes visible to the block, while a ballot or a shuffle moves
// its value and orders nothing else, so that ThreadSanitizer reports a missing barrier as the data race that it is.
// Blocks run one after the other. Loads through intrinsics are counted (loadedBytes).
#pragma once

#include "cuda_runtime_api.h"

#include <algorithm>
#include <functional>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __grid_constant__
#define __shared__ static

namespace skimrt::host
{

constexpr int kWarpSize = 32;

struct Index
{
    unsigned int x;
};

// Runs `body` once for every thread of the grid. One dimension; the block is a whole number of warps.
void runGrid(dim3 grid, dim3 block, std::function<void()> const& body);

// Waits for all threads of the block.
void synchronizeBlock();

// Hands `value` to the other lanes of the warp and returns theirs, by lane. All 32 lanes must call it.
struct Lanes
{
    uint32_t value[kWarpSize];
};
Lanes exchange(uint32_t value);

unsigned int laneOfThread();
void countLoad(size_t bytes);

// Bytes that all kernels have loaded through __ldg and __ldcs since the last call.
uint64_t takeLoadedBytes();

}  // namespace skimrt::host

extern thread_local skimrt::host::Index threadIdx;
extern thread_local skimrt::host::Index blockIdx;

struct alignas(16) uint4
{
    unsigned int x, y, z, w;
};

using std::min;

template <typename T>
T __ldg(T const* address)
{
    skimrt::host::countLoad(sizeof(T));
    return *address;
}

template <typename T>
T __ldcs(T const* address)
{
    skimrt::host::countLoad(sizeof(T));
    return *address;
}

inline int __popc(uint32_t bits)
{
    return __builtin_popcount(bits);
}

inline uint32_t __ballot_sync(uint32_t, bool predicate)
{
    skimrt::host::Lanes const lanes = skimrt::host::exchange(predicate ? 1U : 0U);
    uint32_t ballot = 0;
    for (int lane = 0; lane < skimrt::host::kWarpSize; ++lane)
    {
        ballot |= lanes.value[lane] << lane;
    }
    return ballot;
}

inline int32_t __shfl_up_sync(uint32_t, int32_t value, unsigned int distance)
{
    skimrt::host::Lanes const lanes = skimrt::host::exchange(static_cast<uint32_t>(value));
    unsigned int const lane = skimrt::host::laneOfThread();
    return static_cast<int32_t>(lanes.value[lane >= distance ? lane - distance : lane]);
}

inline void __syncthreads()
{
    skimrt::host::synchronizeBlock();
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(
    cudaLaunchConfig_t const* config, void (*kernel)(Parameters...), Arguments const&... arguments)
{
    skimrt::host::runGrid(config->gridDim, config->blockDim, [&] { kernel(arguments...); });
    return cudaSuccess;
}
