// Regroup on the CPU: what the kernel is compared with.
#pragma once

#include "regroup/operator.h"

namespace skimrt
{

// As skimrt_regroup() in kernel.h, on host memory. Returns false, and writes nothing, when a call is out of range.
bool regroupReference(SkimrtRegroupSource const* sources, SkimrtRegroupTarget const* target);

}  // namespace skimrt
