// Tests the kernel on a CUDA device: every call eagerly and as a replayed CUDA graph.
#include "regroup/kernel.h"
#include "regroup/validate.h"
#include "testing/device.h"
#include "testing/regroup_under_test.h"

#include <cstring>
#include <vector>

bool skimrt::testing::runRegroup(SkimrtRegroupSource const* sources, SkimrtRegroupTarget const* target)
{
    requireDevice();
    if (!isValid(sources, target) || target->batch == 0)
    {
        return skimrt_regroup(sources, target, nullptr) == cudaSuccess;
    }
    std::vector<DeviceBytes> memory;
    auto const toDevice
        = [&](void const* host, size_t size) -> void* { return memory.emplace_back(size, host).as<void>(); };
    std::vector<SkimrtRegroupSource> onDevice(sources, sources + target->batch);
    for (SkimrtRegroupSource& source : onDevice)
    {
        if (source.hidden != nullptr)
        {
            // Of each buffer no more than what reaches up to the sample in question.
            size_t const rows = static_cast<size_t>(source.sample + 1) * source.length;
            source.hidden = toDevice(source.hidden, rows * target->row_bytes);
            source.alive = static_cast<int32_t const*>(toDevice(source.alive, rows * sizeof(int32_t)));
            source.position = static_cast<int32_t const*>(toDevice(source.position, rows * sizeof(int32_t)));
        }
    }
    size_t const rows = static_cast<size_t>(target->batch) * target->length;
    DeviceBytes const hidden(rows * target->row_bytes);
    DeviceBytes const alive(rows * sizeof(int32_t));
    DeviceBytes const position(rows * sizeof(int32_t));
    SkimrtRegroupTarget const to{hidden.as<void>(), alive.as<int32_t>(), position.as<int32_t>(), target->batch,
        target->length, target->row_bytes};

    std::vector<std::byte> eager(rows * target->row_bytes);
    cudaError_t const status = runAndReplay([&](cudaStream_t stream)
        { return static_cast<cudaError_t>(skimrt_regroup(onDevice.data(), &to, stream)); },
        [&]
        {
            hidden.copyTo(eager.data());
            hidden.erase();
            alive.erase();
            position.erase();
        });
    hidden.copyTo(target->hidden);
    alive.copyTo(target->alive);
    position.copyTo(target->position);
    return status == cudaSuccess && std::memcmp(eager.data(), target->hidden, eager.size()) == 0;
}
