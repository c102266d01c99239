// Runs a grid on threads of this process; see cuda_runtime.h.
#include "cuda_runtime.h"

#include <atomic>
#include <linux/futex.h>
#include <pthread.h>
#include <stdexcept>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

thread_local skimrt::host::Index threadIdx;
thread_local skimrt::host::Index blockIdx;

namespace skimrt::host
{
namespace
{

// Every value travels with the number of its exchange in one relaxed atomic, so nothing but the value is ordered. Two
// sets of slots, used in turn, suffice: a lane posts exchange n + 1 only after it has read all of exchange n, so when
// somebody posts n + 2 everybody has read n. Lanes sleep in the kernel, which ThreadSanitizer does not take for an
// ordering either.
struct Warp
{
    std::atomic<uint64_t> slot[2][kWarpSize]{};
    std::atomic<uint64_t> arrivals{0};  // of all lanes, in all exchanges
    std::atomic<uint32_t> complete{0};  // the number of the last exchange that all lanes have posted to
};

void sleepWhile(std::atomic<uint32_t>& word, uint32_t value)
{
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void wakeAll(std::atomic<uint32_t>& word)
{
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, kWarpSize, nullptr, nullptr, 0);
}

// A barrier of pthreads, which ThreadSanitizer knows.
class Barrier
{
public:
    explicit Barrier(unsigned int threads)
    {
        pthread_barrier_init(&mBarrier, nullptr, threads);
    }
    ~Barrier()
    {
        pthread_barrier_destroy(&mBarrier);
    }
    Barrier(Barrier const&) = delete;
    Barrier& operator=(Barrier const&) = delete;
    void wait()
    {
        pthread_barrier_wait(&mBarrier);
    }

private:
    pthread_barrier_t mBarrier;
};

struct Block
{
    explicit Block(unsigned int threads)
        : barrier(threads)
        , warps(threads / kWarpSize)
    {
    }
    Barrier barrier;
    std::vector<Warp> warps;
};

thread_local Block* currentBlock = nullptr;
thread_local uint32_t exchanges = 0;
std::atomic<uint64_t> loadedBytes{0};

// The threads of a block, kept from one grid to the next.
class Threads
{
public:
    explicit Threads(unsigned int count)
        : mBlock(count)
        , mGate(count + 1)
    {
        for (unsigned int index = 0; index < count; ++index)
        {
            mThreads.emplace_back([this, index] { work(index); });
        }
    }
    ~Threads()
    {
        mBody = nullptr;
        mGate.wait();
        for (std::thread& thread : mThreads)
        {
            thread.join();
        }
    }
    size_t count() const
    {
        return mThreads.size();
    }
    void run(unsigned int blocks, std::function<void()> const& body)
    {
        mBlocks = blocks;
        mBody = &body;
        mGate.wait();  // begin
        mGate.wait();  // end
    }

private:
    void work(unsigned int index)
    {
        currentBlock = &mBlock;
        threadIdx.x = index;
        for (mGate.wait(); mBody != nullptr; mGate.wait())
        {
            for (blockIdx.x = 0; blockIdx.x < mBlocks; ++blockIdx.x)
            {
                (*mBody)();
                synchronizeBlock();  // the next block uses the same shared memory
            }
            mGate.wait();
        }
    }

    Block mBlock;
    Barrier mGate;
    unsigned int mBlocks{};
    std::function<void()> const* mBody{};
    std::vector<std::thread> mThreads;
};

}  // namespace

void runGrid(dim3 grid, dim3 block, std::function<void()> const& body)
{
    static Threads threads(block.x);
    if (grid.y != 1 || grid.z != 1 || block.y != 1 || block.z != 1 || block.x % kWarpSize != 0
        || block.x != threads.count())
    {
        throw std::invalid_argument("the host run takes one-dimensional grids of whole warps, all of one block size");
    }
    threads.run(grid.x, body);
}

void synchronizeBlock()
{
    currentBlock->barrier.wait();
}

Lanes exchange(uint32_t value)
{
    uint32_t const number = ++exchanges;
    Warp& warp = currentBlock->warps[threadIdx.x / kWarpSize];
    auto& slots = warp.slot[number % 2];
    slots[laneOfThread()].store(uint64_t{number} << 32 | value, std::memory_order_relaxed);
    if (warp.arrivals.fetch_add(1, std::memory_order_relaxed) + 1 == uint64_t{number} * kWarpSize)
    {
        warp.complete.store(number, std::memory_order_relaxed);
        wakeAll(warp.complete);
    }
    for (uint32_t seen = warp.complete.load(std::memory_order_relaxed); seen < number;
         seen = warp.complete.load(std::memory_order_relaxed))
    {
        sleepWhile(warp.complete, seen);
    }
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
