// Regroup: one block to a few rows of one target sample. The sources travel as kernel arguments, which needs neither
// device memory nor a copy for them.
#include "regroup/kernel.h"

#include "regroup/validate.h"
#include "row_copy.cuh"

#include <limits>

namespace skimrt
{
namespace
{

constexpr int32_t kSourcesPerLaunch = 64;  // 2 KiB of the 4 KiB that every device takes as arguments

struct Sources
{
    SkimrtRegroupSource source[kSourcesPerLaunch];
};

template <typename Vector>
__device__ __forceinline__ void clearRow(Vector* to, int64_t vectors, int32_t lane)
{
    for (int64_t i = lane; i < vectors; i += kWarpSize)
    {
        to[i] = Vector{};
    }
}

// Fills samples firstSample, firstSample + 1, ... of the target from sources.source[0], [1], ...
template <typename Vector>
__global__ void __launch_bounds__(kThreads)
    regroupKernel(__grid_constant__ Sources const sources, SkimrtRegroupTarget const target, int32_t const firstSample,
        int32_t const rowsPerBlock, int32_t const blocksPerSample)
{
    int32_t const entry = blockIdx.x / blocksPerSample;
    SkimrtRegroupSource const& source = sources.source[entry];
    int32_t const firstRow = (blockIdx.x % blocksPerSample) * rowsPerBlock;
    int32_t const endRow = min(firstRow + rowsPerBlock, target.length);
    int32_t const copied = source.hidden == nullptr ? 0 : min(source.length, target.length);
    int32_t const lane = threadIdx.x % kWarpSize;

    int64_t const vectors = target.row_bytes / static_cast<int64_t>(sizeof(Vector));
    int64_t const in = static_cast<int64_t>(source.sample) * source.length;
    int64_t const out = static_cast<int64_t>(firstSample + entry) * target.length;
    for (int32_t row = firstRow + static_cast<int32_t>(threadIdx.x); row < endRow; row += kThreads)
    {
        target.alive[out + row] = row < copied ? __ldg(source.alive + in + row) : 0;
        target.position[out + row] = row < copied ? __ldg(source.position + in + row) : SKIMRT_NO_POSITION;
    }
    for (int32_t row = firstRow + static_cast<int32_t>(threadIdx.x) / kWarpSize; row < endRow; row += kWarps)
    {
        Vector* const to = static_cast<Vector*>(target.hidden) + (out + row) * vectors;
        if (row < copied)
        {
            copyRow(static_cast<Vector const*>(source.hidden) + (in + row) * vectors, to, vectors, lane);
        }
        else
        {
            clearRow(to, vectors, lane);
        }
    }
}

template <typename Vector>
cudaError_t launch(SkimrtRegroupSource const* sources, SkimrtRegroupTarget const& target, cudaStream_t stream)
{
    int32_t const rowsPerBlock = chooseRowsPerBlock(static_cast<int64_t>(target.batch) * target.length);
    int32_t const blocksPerSample = (target.length - 1) / rowsPerBlock + 1;
    if (blocksPerSample > std::numeric_limits<int32_t>::max() / kSourcesPerLaunch)
    {
        return cudaErrorInvalidValue;
    }
    for (int32_t first = 0; first < target.batch; first += kSourcesPerLaunch)
    {
        int32_t const samples = std::min(kSourcesPerLaunch, target.batch - first);
        Sources part{};
        std::copy_n(sources + first, samples, part.source);
        cudaLaunchConfig_t config{};
        config.gridDim = dim3(static_cast<uint32_t>(samples * blocksPerSample));
        config.blockDim = dim3(kThreads);
        config.stream = stream;
        cudaError_t const status
            = cudaLaunchKernelEx(&config, regroupKernel<Vector>, part, target, first, rowsPerBlock, blocksPerSample);
        if (status != cudaSuccess)
        {
            return status;
        }
    }
    return cudaSuccess;
}

cudaError_t regroup(SkimrtRegroupSource const* sources, SkimrtRegroupTarget const* target, cudaStream_t stream)
{
    if (!isValid(sources, target))
    {
        return cudaErrorInvalidValue;
    }
    uint64_t addresses = addressOf(target->hidden);
    for (int32_t i = 0; i < target->batch; ++i)
    {
        addresses |= addressOf(sources[i].hidden);
    }
    switch (accessBytes(target->row_bytes, addresses))
    {
    case 16: return launch<uint4>(sources, *target, stream);
    case 4: return launch<uint32_t>(sources, *target, stream);
    case 2: return launch<uint16_t>(sources, *target, stream);
    default: return launch<uint8_t>(sources, *target, stream);
    }
}

}  // namespace
}  // namespace skimrt

extern "C" int32_t skimrt_regroup(
    SkimrtRegroupSource const* sources, SkimrtRegroupTarget const* target, cudaStream_t stream)
{
    return skimrt::regroup(sources, target, stream);
}

extern "C" char const* skimrt_error_string(int32_t code)
{
    return cudaGetErrorString(static_cast<cudaError_t>(code));
}
