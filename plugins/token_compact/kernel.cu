// TokenCompact in one launch. A block owns a range of output rows of one sample: it finds out where every input row of
// the sample goes (a prefix sum over ballots, so the order is the position and no atomic is needed), remembers those
// that fall into its range, and copies them. Blocks of one sample repeat the scan, which costs 8 bytes a row and saves
// a second launch, a workspace and all communication between blocks.
#include "token_compact/kernel.h"

#include "row_copy.cuh"

#include <limits>

namespace skimrt
{
namespace
{

constexpr uint32_t kAllLanes = 0xffffffffU;
constexpr int32_t kMaxWords = kMaxLength / kWarpSize;
constexpr int32_t kWordsPerLane = kMaxWords / kWarpSize;

// Row 0 is carried even when it is dead.
__device__ __forceinline__ uint32_t carriedWord(uint32_t const* keptWords, int32_t word)
{
    return keptWords[word] | (word == 0 ? 1U : 0U);
}

// Bit k % 32 of keptWords[k / 32]: whether row k of the sample is kept. One word a warp at a time.
__device__ void findKept(TokenCompactProblem const& problem, int64_t sample, uint32_t* keptWords)
{
    float const* const score = problem.score + sample * problem.length;
    int32_t const* const alive = problem.alive + sample * problem.length;
    int32_t const lane = threadIdx.x % kWarpSize;
    for (int32_t word = threadIdx.x / kWarpSize; word * kWarpSize < problem.length; word += kWarps)
    {
        int32_t const k = word * kWarpSize + lane;
        bool kept = false;
        if (k < problem.length)
        {
            // Both are loaded before either is looked at, so that the loads overlap.
            int32_t const wasAlive = __ldg(alive + k);
            bool const passes = __ldg(score + k) >= problem.threshold;
            kept = wasAlive != 0 && (passes || (k == 0 && problem.protectFirst));
        }
        uint32_t const keptWord = __ballot_sync(kAllLanes, kept);
        if (lane == 0)
        {
            keptWords[word] = keptWord;
        }
    }
}

// carriedBefore[w]: carried rows in front of word w; the last entry is the sample's count. Run by one whole warp.
__device__ void countCarried(int32_t words, uint32_t const* keptWords, int32_t* carriedBefore)
{
    int32_t const lane = threadIdx.x % kWarpSize;
    int32_t const firstWord = lane * kWordsPerLane;
    int32_t carried[kWordsPerLane];
    int32_t before = 0;
#pragma unroll
    for (int32_t i = 0; i < kWordsPerLane; ++i)
    {
        carried[i] = firstWord + i < words ? __popc(carriedWord(keptWords, firstWord + i)) : 0;
        before += carried[i];
    }
    int32_t const own = before;
#pragma unroll
    for (int32_t distance = 1; distance < kWarpSize; distance *= 2)
    {
        int32_t const other = __shfl_up_sync(kAllLanes, before, distance);
        before += lane >= distance ? other : 0;
    }
    if (lane == kWarpSize - 1)
    {
        carriedBefore[kMaxWords] = before;
    }
    before -= own;
#pragma unroll
    for (int32_t i = 0; i < kWordsPerLane; ++i)
    {
        carriedBefore[firstWord + i] = before;
        before += carried[i];
    }
}

template <typename Vector>
__global__ void __launch_bounds__(kThreads)
    tokenCompactKernel(TokenCompactProblem const problem, int32_t const rowsPerBlock, int32_t const blocksPerSample)
{
    __shared__ uint32_t keptWords[kMaxWords];
    __shared__ int32_t carriedBefore[kMaxWords + 1];
    __shared__ int32_t sources[kMaxRowsPerBlock];

    int64_t const sample = blockIdx.x / blocksPerSample;
    int32_t const firstRow = (blockIdx.x % blocksPerSample) * rowsPerBlock;
    int32_t const rows = min(rowsPerBlock, problem.capacity - firstRow);
    int32_t const warp = threadIdx.x / kWarpSize;
    int32_t const lane = threadIdx.x % kWarpSize;

    findKept(problem, sample, keptWords);
    __syncthreads();  // keptWords is complete

    if (warp == 0)
    {
        countCarried((problem.length + kWarpSize - 1) / kWarpSize, keptWords, carriedBefore);
    }
    __syncthreads();  // carriedBefore is complete

    int32_t const count = carriedBefore[kMaxWords];
    if (firstRow == 0 && threadIdx.x == 0)
    {
        problem.count[sample] = count;
    }
    for (int32_t k = threadIdx.x; k < problem.length; k += kThreads)
    {
        int32_t const word = k / kWarpSize;
        uint32_t const bit = 1U << (k % kWarpSize);
        uint32_t const carried = carriedWord(keptWords, word);
        int32_t const rank = carriedBefore[word] + __popc(carried & (bit - 1U));
        int32_t const target = ((carried & bit) != 0 ? rank : count + k - rank) - firstRow;
        if (target >= 0 && target < rows)
        {
            sources[target] = k;
            int64_t const to = sample * problem.capacity + firstRow + target;
            problem.packedAlive[to] = (keptWords[word] & bit) != 0 ? 1 : 0;
            problem.packedPosition[to] = __ldg(problem.position + sample * problem.length + k);
        }
    }
    __syncthreads();  // sources is complete

    int64_t const vectors = problem.rowBytes / static_cast<int64_t>(sizeof(Vector));
    Vector const* const hidden = static_cast<Vector const*>(problem.hidden) + sample * problem.length * vectors;
    Vector* const packed = static_cast<Vector*>(problem.packed) + (sample * problem.capacity + firstRow) * vectors;
    for (int32_t row = warp; row < rows; row += kWarps)
    {
        copyRow(hidden + sources[row] * vectors, packed + row * vectors, vectors, lane);
    }
}

template <typename Vector>
cudaError_t launch(TokenCompactProblem const& problem, cudaStream_t stream)
{
    int32_t const rowsPerBlock = chooseRowsPerBlock(static_cast<int64_t>(problem.batch) * problem.capacity);
    int32_t const blocksPerSample = (problem.capacity + rowsPerBlock - 1) / rowsPerBlock;
    int64_t const blocks = static_cast<int64_t>(problem.batch) * blocksPerSample;
    if (blocks > std::numeric_limits<int32_t>::max())
    {
        return cudaErrorInvalidValue;
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<uint32_t>(blocks));
    config.blockDim = dim3(kThreads);
    config.stream = stream;
    return cudaLaunchKernelEx(&config, tokenCompactKernel<Vector>, problem, rowsPerBlock, blocksPerSample);
}

}  // namespace

cudaError_t tokenCompact(TokenCompactProblem const& problem, cudaStream_t stream) noexcept
{
    if (!isValid(problem))
    {
        return cudaErrorInvalidValue;
    }
    if (problem.batch == 0)
    {
        return cudaSuccess;
    }
    switch (accessBytes(problem.rowBytes, addressOf(problem.hidden) | addressOf(problem.packed)))
    {
    case 16: return launch<uint4>(problem, stream);
    case 4: return launch<uint32_t>(problem, stream);
    case 2: return launch<uint16_t>(problem, stream);
    default: return launch<uint8_t>(problem, stream);
    }
}

}  // namespace skimrt

extern "C" int32_t skimrt_token_compact(skimrt::TokenCompactProblem const* problem, cudaStream_t stream)
{
    return skimrt::tokenCompact(*problem, stream);
}
