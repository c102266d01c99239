// What the device tests need of the CUDA runtime.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_runtime_api.h>
#include <functional>
#include <stdexcept>
#include <string>

namespace skimrt::testing
{

// Ends the program with status 77, which ctest takes for "skipped", when this machine has no CUDA device.
void requireDevice();

inline void requireSuccess(cudaError_t status, char const* call)
{
    if (status != cudaSuccess)
    {
        throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(status));
    }
}

#define REQUIRE_SUCCESS(call) ::skimrt::testing::requireSuccess(call, #call)

// Device memory of the given size, filled with the bytes at `host`, or with 0xa5 when that is null.
class DeviceBytes
{
public:
    explicit DeviceBytes(size_t size, void const* host = nullptr);
    ~DeviceBytes();
    DeviceBytes(DeviceBytes&& other) noexcept;
    DeviceBytes(DeviceBytes const&) = delete;
    DeviceBytes& operator=(DeviceBytes const&) = delete;
    DeviceBytes& operator=(DeviceBytes&&) = delete;

    template <typename T>
    T* as() const
    {
        return static_cast<T*>(mData);
    }
    void erase() const;  // back to 0xa5
    void copyTo(void* host) const;

private:
    size_t mSize;
    void* mData{};
};

// Runs `work` on a stream twice: as it is, and after `between` once more as the replay of a CUDA graph that captured
// it. Returns the status of `work`; a refused call is not captured.
cudaError_t runAndReplay(std::function<cudaError_t(cudaStream_t)> const& work, std::function<void()> const& between);

}  // namespace skimrt::testing
