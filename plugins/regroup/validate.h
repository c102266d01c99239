// Whether a regroup call is in range: asked by the kernel and by the reference before either writes.
#pragma once

#include "regroup/operator.h"

namespace skimrt
{

inline bool isValid(SkimrtRegroupSource const* sources, SkimrtRegroupTarget const* target)
{
    if (target == nullptr || target->batch < 0 || target->length < 1 || target->row_bytes < 1)
    {
        return false;
    }
    if (target->batch == 0)
    {
        return true;
    }
    if (sources == nullptr || target->hidden == nullptr || target->alive == nullptr || target->position == nullptr)
    {
        return false;
    }
    for (int32_t i = 0; i < target->batch; ++i)
    {
        SkimrtRegroupSource const& source = sources[i];
        bool const empty = source.hidden == nullptr;
        if (!empty && (source.alive == nullptr || source.position == nullptr || source.sample < 0 || source.length < 1))
        {
            return false;
        }
    }
    return true;
}

}  // namespace skimrt
