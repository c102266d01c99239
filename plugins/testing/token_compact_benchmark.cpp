// Times TokenCompact on a CUDA device beside a plain copy of the same rows. Prints one JSON object a shape.
// Both run from a CUDA graph over so many sets of tensors that none is still in the level-2 cache when its turn comes.
#include "testing/device.h"
#include "token_compact/kernel.h"

#include <algorithm>
#include <cstdio>
#include <deque>
#include <vector>

using namespace skimrt;
using namespace skimrt::testing;

namespace
{

constexpr int64_t kBytesOfHalf = 2;
constexpr int kRepeats = 21;

struct Shape
{
    int32_t batch, length, capacity, width;
};

constexpr Shape kShapes[] = {{1, 128, 128, 768}, {8, 128, 128, 768}, {8, 384, 192, 768}, {32, 128, 64, 768},
    {32, 512, 512, 768}, {32, 512, 256, 768}, {128, 512, 512, 768}, {32, 512, 512, 1024}};

// What must be loaded and stored at least; as in token_compact_bytes.cpp.
int64_t leastBytes(TokenCompactProblem const& problem)
{
    int64_t const rowsOut = static_cast<int64_t>(problem.batch) * problem.capacity;
    int64_t const rowsIn = static_cast<int64_t>(problem.batch) * problem.length;
    return rowsOut * (2 * problem.rowBytes + 12) + rowsIn * 8 + 4 * problem.batch;
}

// One set of tensors on the device; 40 % of the rows pass.
struct Tensors
{
    explicit Tensors(Shape const& shape)
        : problem{shape.batch, shape.length, shape.capacity, shape.width * kBytesOfHalf, 0.5F, true, nullptr, nullptr,
              nullptr, nullptr, nullptr, nullptr, nullptr, nullptr}
    {
        size_t const in = static_cast<size_t>(shape.batch) * shape.length;
        size_t const out = static_cast<size_t>(shape.batch) * shape.capacity;
        std::vector<float> score(in);
        std::vector<int32_t> const ones(in, 1);
        for (size_t row = 0; row < in; ++row)
        {
            score[row] = row % 5 < 2 ? 1.0F : 0.0F;
        }
        problem.hidden = keep(in * problem.rowBytes);
        problem.score = static_cast<float const*>(keep(in * sizeof(float), score.data()));
        problem.alive = static_cast<int32_t const*>(keep(in * sizeof(int32_t), ones.data()));
        problem.position = static_cast<int32_t const*>(keep(in * sizeof(int32_t), ones.data()));
        problem.packed = keep(out * problem.rowBytes);
        problem.packedAlive = static_cast<int32_t*>(keep(out * sizeof(int32_t)));
        problem.packedPosition = static_cast<int32_t*>(keep(out * sizeof(int32_t)));
        problem.count = static_cast<int32_t*>(keep(shape.batch * sizeof(int32_t)));
    }
    void* keep(size_t size, void const* host = nullptr)
    {
        return memory.emplace_back(size, host).as<void>();
    }
    TokenCompactProblem problem;
    std::deque<DeviceBytes> memory;
};

// Median seconds of one call of `work`, which puts something on a stream for set 0, 1, ... of `sets`.
template <typename Work>
double secondsOf(size_t sets, Work const& work)
{
    cudaStream_t stream{};
    cudaGraph_t graph{};
    cudaGraphExec_t executable{};
    cudaEvent_t begin{};
    cudaEvent_t end{};
    REQUIRE_SUCCESS(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    REQUIRE_SUCCESS(cudaEventCreate(&begin));
    REQUIRE_SUCCESS(cudaEventCreate(&end));
    REQUIRE_SUCCESS(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (size_t set = 0; set < sets; ++set)
    {
        REQUIRE_SUCCESS(work(set, stream));
    }
    REQUIRE_SUCCESS(cudaStreamEndCapture(stream, &graph));
    REQUIRE_SUCCESS(cudaGraphInstantiate(&executable, graph, 0));
    std::vector<double> seconds;
    for (int repeat = -1; repeat < kRepeats; ++repeat)  // the first one warms up
    {
        float milliseconds = 0;
        REQUIRE_SUCCESS(cudaEventRecord(begin, stream));
        REQUIRE_SUCCESS(cudaGraphLaunch(executable, stream));
        REQUIRE_SUCCESS(cudaEventRecord(end, stream));
        REQUIRE_SUCCESS(cudaEventSynchronize(end));
        REQUIRE_SUCCESS(cudaEventElapsedTime(&milliseconds, begin, end));
        if (repeat >= 0)
        {
            seconds.push_back(milliseconds / 1e3 / static_cast<double>(sets));
        }
    }
    REQUIRE_SUCCESS(cudaGraphExecDestroy(executable));
    REQUIRE_SUCCESS(cudaGraphDestroy(graph));
    REQUIRE_SUCCESS(cudaEventDestroy(begin));
    REQUIRE_SUCCESS(cudaEventDestroy(end));
    REQUIRE_SUCCESS(cudaStreamDestroy(stream));
    std::nth_element(seconds.begin(), seconds.begin() + kRepeats / 2, seconds.end());
    return seconds[kRepeats / 2];
}

void measure(Shape const& shape, cudaDeviceProp const& device)
{
    std::deque<Tensors> sets;
    int64_t bytesOfSets = 0;
    while (bytesOfSets < 4LL * device.l2CacheSize)
    {
        sets.emplace_back(shape);
        bytesOfSets += leastBytes(sets.back().problem);
    }
    int64_t const copied = static_cast<int64_t>(shape.batch) * shape.capacity * shape.width * kBytesOfHalf;
    double const compaction = secondsOf(
        sets.size(), [&](size_t set, cudaStream_t stream) { return tokenCompact(sets[set].problem, stream); });
    double const copy = secondsOf(sets.size(),
        [&](size_t set, cudaStream_t stream)
        {
            TokenCompactProblem const& problem = sets[set].problem;
            return cudaMemcpyAsync(problem.packed, problem.hidden, copied, cudaMemcpyDeviceToDevice, stream);
        });
    int64_t const bytes = leastBytes(sets.front().problem);
    std::printf("{\"device\": \"%s\", \"batch\": %d, \"length\": %d, \"capacity\": %d, \"width\": %d, "
                "\"dtype\": \"fp16\", \"bytes_that_must_move\": %lld, \"microseconds\": %.2f, "
                "\"gigabytes_per_second\": %.1f, \"copy_gigabytes_per_second\": %.1f}\n",
        device.name, shape.batch, shape.length, shape.capacity, shape.width, static_cast<long long>(bytes),
        compaction * 1e6, static_cast<double>(bytes) / compaction / 1e9,
        2.0 * static_cast<double>(copied) / copy / 1e9);
    std::fflush(stdout);
}

}  // namespace

int main()
{
    requireDevice();
    cudaDeviceProp device{};
    REQUIRE_SUCCESS(cudaGetDeviceProperties(&device, 0));
    for (Shape const& shape : kShapes)
    {
        measure(shape, device);
    }
    return 0;
}
