// The implementation that a test program is linked with.
#pragma once

#include "token_compact/operator.h"

namespace skimrt::testing
{

// Runs the problem, whose pointers are host memory, and waits for it. False when it was refused.
bool runTokenCompact(TokenCompactProblem const& problem);

}  // namespace skimrt::testing
