// Tests the kernel on a CUDA device: every problem eagerly and as a replayed CUDA graph.
#include "testing/device.h"
#include "testing/token_compact_under_test.h"
#include "token_compact/kernel.h"

#include <cstring>
#include <vector>

namespace skimrt::testing
{
namespace
{

// The place of `host` within 16 bytes is kept, because the width of the accesses depends on it.
size_t offsetOf(void const* host)
{
    return reinterpret_cast<uintptr_t>(host) % 16;
}

DeviceBytes rowsOnDevice(void const* host, size_t size)
{
    std::vector<std::byte> padded(offsetOf(host) + size);
    std::memcpy(padded.data() + offsetOf(host), host, size);
    return DeviceBytes(padded.size(), padded.data());
}

}  // namespace

bool runTokenCompact(TokenCompactProblem const& problem)
{
    requireDevice();
    if (!isValid(problem) || problem.batch == 0)
    {
        return tokenCompact(problem, nullptr) == cudaSuccess;
    }
    size_t const in = static_cast<size_t>(problem.batch) * problem.length;
    size_t const out = static_cast<size_t>(problem.batch) * problem.capacity;
    DeviceBytes const hidden = rowsOnDevice(problem.hidden, in * problem.rowBytes);
    DeviceBytes const score(in * sizeof(float), problem.score);
    DeviceBytes const alive(in * sizeof(int32_t), problem.alive);
    DeviceBytes const position(in * sizeof(int32_t), problem.position);
    DeviceBytes const packed(out * problem.rowBytes);
    DeviceBytes const packedAlive(out * sizeof(int32_t));
    DeviceBytes const packedPosition(out * sizeof(int32_t));
    DeviceBytes const count(problem.batch * sizeof(int32_t));

    TokenCompactProblem onDevice = problem;
    onDevice.hidden = hidden.as<std::byte>() + offsetOf(problem.hidden);
    onDevice.score = score.as<float>();
    onDevice.alive = alive.as<int32_t>();
    onDevice.position = position.as<int32_t>();
    onDevice.packed = packed.as<void>();
    onDevice.packedAlive = packedAlive.as<int32_t>();
    onDevice.packedPosition = packedPosition.as<int32_t>();
    onDevice.count = count.as<int32_t>();

    auto const copyBack = [&]
    {
        packed.copyTo(problem.packed);
        packedAlive.copyTo(problem.packedAlive);
        packedPosition.copyTo(problem.packedPosition);
        count.copyTo(problem.count);
    };
    std::vector<std::byte> eager(out * problem.rowBytes);
    cudaError_t const status = runAndReplay([&](cudaStream_t stream) { return tokenCompact(onDevice, stream); },
        [&]
        {
            packed.copyTo(eager.data());
            for (DeviceBytes const* output : {&packed, &packedAlive, &packedPosition, &count})
            {
                output->erase();
            }
        });
    copyBack();
    return status == cudaSuccess && std::memcmp(eager.data(), problem.packed, eager.size()) == 0;
}

}  // namespace skimrt::testing
