// Runs a grid on threads of this process; see cuda_runtime.h.
#include "cuda_runtime.h"

#include <atomic>
#include <memory>
#include <pthread.h>
#include <stdexcept>
#include <thread>
#include <vector>

thread_local skimrt::host::Index threadIdx;
thread_local skimrt::host::Index blockIdx;

namespace skimrt::host
{
namespace
{

// Every value travels with the number of its exchange in one relaxed atomic, so nothing but the value is ordered. Two
// sets of slots, used in turn, suffice: a lane posts exchange n + 1 only after it has read all of exchange n, so when
// somebody posts n + 2 everybody has read n.
struct Warp
{
    std::atomic<uint64_t> slot[2][kWarpSize]{};
};

struct Block
{
    explicit Block(unsigned int threads)
        : warps(threads / kWarpSize)
    {
        pthread_barrier_init(&barrier, nullptr, threads);
    }
    ~Block()
    {
        pthread_barrier_destroy(&barrier);
    }
    Block(Block const&) = delete;
    Block& operator=(Block const&) = delete;

    pthread_barrier_t barrier;
    std::vector<Warp> warps;
};

thread_local Block* currentBlock = nullptr;
thread_local uint32_t exchanges = 0;
std::atomic<uint64_t> loadedBytes{0};

}  // namespace

void runGrid(dim3 grid, dim3 block, std::function<void()> const& body)
{
    if (grid.y != 1 || grid.z != 1 || block.y != 1 || block.z != 1 || block.x % kWarpSize != 0)
    {
        throw std::invalid_argument("the host run takes one-dimensional grids of whole warps");
    }
    Block state(block.x);
    auto const runThread = [&](unsigned int index)
    {
        currentBlock = &state;
        threadIdx.x = index;
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
        {
            body();
            synchronizeBlock();  // the next block uses the same shared memory
        }
    };
    std::vector<std::thread> threads;
    threads.reserve(block.x);
    for (unsigned int index = 0; index < block.x; ++index)
    {
        threads.emplace_back(runThread, index);
    }
    for (std::thread& thread : threads)
    {
        thread.join();
    }
}

void synchronizeBlock()
{
    pthread_barrier_wait(&currentBlock->barrier);
}

Lanes exchange(uint32_t value)
{
    uint64_t const number = ++exchanges;
    auto& slots = currentBlock->warps[threadIdx.x / kWarpSize].slot[number % 2];
    slots[laneOfThread()].store(number << 32 | value, std::memory_order_relaxed);
    Lanes lanes{};
    for (int lane = 0; lane < kWarpSize; ++lane)
    {
        uint64_t posted = slots[lane].load(std::memory_order_relaxed);
        while (posted >> 32 != number)
        {
            std::this_thread::yield();
            posted = slots[lane].load(std::memory_order_relaxed);
        }
        lanes.value[lane] = static_cast<uint32_t>(posted);
    }
    return lanes;
}

unsigned int laneOfThread()
{
    return threadIdx.x % kWarpSize;
}

void countLoad(size_t bytes)
{
    loadedBytes.fetch_add(bytes, std::memory_order_relaxed);
}

uint64_t takeLoadedBytes()
{
    return loadedBytes.exchange(0);
}

}  // namespace skimrt::host
