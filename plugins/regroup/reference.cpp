// Regroup on the CPU.
#include "regroup/reference.h"

#include "regroup/validate.h"

#include <algorithm>
#include <cstddef>

namespace skimrt
{

bool regroupReference(SkimrtRegroupSource const* sources, SkimrtRegroupTarget const* target)
{
    if (!isValid(sources, target))
    {
        return false;
    }
    int64_t const rowBytes = target->row_bytes;
    for (int64_t sample = 0; sample < target->batch; ++sample)
    {
        SkimrtRegroupSource const& source = sources[sample];
        int64_t const copied = source.hidden == nullptr ? 0 : std::min(source.length, target->length);
        int64_t const in = static_cast<int64_t>(source.sample) * source.length;
        int64_t const out = sample * target->length;
        auto* const hidden = static_cast<std::byte*>(target->hidden) + out * rowBytes;
        if (copied > 0)
        {
            std::copy_n(static_cast<std::byte const*>(source.hidden) + in * rowBytes, copied * rowBytes, hidden);
            std::copy_n(source.alive + in, copied, target->alive + out);
            std::copy_n(source.position + in, copied, target->position + out);
        }
        int64_t const cleared = target->length - copied;
        std::fill_n(hidden + copied * rowBytes, cleared * rowBytes, std::byte{0});
        std::fill_n(target->alive + out + copied, cleared, 0);
        std::fill_n(target->position + out + copied, cleared, static_cast<int32_t>(SKIMRT_NO_POSITION));
    }
    return true;
}

}  // namespace skimrt
