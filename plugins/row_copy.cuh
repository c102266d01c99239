// Moving rows: how wide the accesses are and how a warp copies one row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cuda_runtime.h>

namespace skimrt
{

constexpr int32_t kWarpSize = 32;
constexpr int32_t kThreads = 256;
constexpr int32_t kWarps = kThreads / kWarpSize;
// Loads that a lane has under way at a time: with 8 warps to a block, 16 bytes each cover the latency of device memory.
constexpr int32_t kLoadsInFlight = 4;

// Copies `vectors` vectors, neighbouring lanes taking neighbouring vectors. The source is read for the last time
// (evict first); the result is what the next kernel reads (kept).
template <typename Vector>
__device__ __forceinline__ void copyRow(Vector const* from, Vector* to, int64_t vectors, int32_t lane)
{
    for (int64_t first = lane; first < vectors; first += kLoadsInFlight * kWarpSize)
    {
        Vector held[kLoadsInFlight] = {};
#pragma unroll
        for (int32_t i = 0; i < kLoadsInFlight; ++i)
        {
            if (first + i * kWarpSize < vectors)
            {
                held[i] = __ldcs(from + first + i * kWarpSize);
            }
        }
#pragma unroll
        for (int32_t i = 0; i < kLoadsInFlight; ++i)
        {
            if (first + i * kWarpSize < vectors)
            {
                to[first + i * kWarpSize] = held[i];
            }
        }
    }
}

// The widest access that divides the row size and every address given (addresses OR-ed together): 16, 4, 2 or 1 bytes.
inline int32_t accessBytes(uint64_t rowBytes, uint64_t addresses)
{
    for (int32_t const bytes : {16, 4, 2})
    {
        if ((rowBytes | addresses) % bytes == 0)
        {
            return bytes;
        }
    }
    return 1;
}

inline uint64_t addressOf(void const* pointer)
{
    return reinterpret_cast<uintptr_t>(pointer);
}

constexpr int32_t kMaxRowsPerWarp = 8;
constexpr int32_t kMaxRowsPerBlock = kWarps * kMaxRowsPerWarp;

// Rows of one sample that a block takes: one to a warp, more when the device is full anyway, because every block has
// a cost of its own (in TokenCompact it scans the whole sample).
inline int32_t chooseRowsPerBlock(int64_t rows)
{
    constexpr int64_t kBlocksThatFillADevice = 512;
    int64_t const perWarp = rows / (kWarps * kBlocksThatFillADevice);
    return kWarps * static_cast<int32_t>(std::clamp<int64_t>(perWarp, 1, kMaxRowsPerWarp));
}
}  // namespace skimrt
