// What the device tests need of the CUDA runtime.
#include "testing/device.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace skimrt::testing
{
namespace
{

constexpr int kSkipped = 77;
constexpr int kUnwrittenByte = 0xa5;

}  // namespace

void requireDevice()
{
    int devices = 0;
    cudaError_t const status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess || devices == 0)
    {
        std::printf("SKIP: no CUDA device (%s)\n", cudaGetErrorString(status));
        std::exit(kSkipped);
    }
}

DeviceBytes::DeviceBytes(size_t size, void const* host)
    : mSize(size)
{
    REQUIRE_SUCCESS(cudaMalloc(&mData, size > 0 ? size : 1));
    if (host != nullptr)
    {
        REQUIRE_SUCCESS(cudaMemcpy(mData, host, size, cudaMemcpyHostToDevice));
    }
    else
    {
        erase();
    }
}

DeviceBytes::~DeviceBytes()
{
    cudaFree(mData);
}

DeviceBytes::DeviceBytes(DeviceBytes&& other) noexcept
    : mSize(other.mSize)
    , mData(std::exchange(other.mData, nullptr))
{
}

void DeviceBytes::erase() const
{
    REQUIRE_SUCCESS(cudaMemset(mData, kUnwrittenByte, mSize));
    REQUIRE_SUCCESS(cudaDeviceSynchronize());
}

void DeviceBytes::copyTo(void* host) const
{
    REQUIRE_SUCCESS(cudaMemcpy(host, mData, mSize, cudaMemcpyDeviceToHost));
}

cudaError_t runAndReplay(std::function<cudaError_t(cudaStream_t)> const& work, std::function<void()> const& between)
{
    cudaStream_t stream{};
    REQUIRE_SUCCESS(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    cudaError_t const status = work(stream);
    if (status == cudaSuccess)
    {
        REQUIRE_SUCCESS(cudaStreamSynchronize(stream));
        cudaGraph_t graph{};
        cudaGraphExec_t executable{};
        REQUIRE_SUCCESS(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        REQUIRE_SUCCESS(work(stream));
        REQUIRE_SUCCESS(cudaStreamEndCapture(stream, &graph));
        REQUIRE_SUCCESS(cudaGraphInstantiate(&executable, graph, 0));
        between();
        REQUIRE_SUCCESS(cudaGraphLaunch(executable, stream));
        REQUIRE_SUCCESS(cudaStreamSynchronize(stream));
        REQUIRE_SUCCESS(cudaGraphExecDestroy(executable));
        REQUIRE_SUCCESS(cudaGraphDestroy(graph));
    }
    REQUIRE_SUCCESS(cudaStreamDestroy(stream));
    return status;
}

}  // namespace skimrt::testing
