// The implementation that a test program is linked with.
#pragma once

#include "regroup/operator.h"

namespace skimrt::testing
{

// Runs the call, whose pointers are host memory, and waits for it. False when it was refused.
bool runRegroup(SkimrtRegroupSource const* sources, SkimrtRegroupTarget const* target);

}  // namespace skimrt::testing
