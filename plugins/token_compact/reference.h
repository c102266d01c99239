// TokenCompact on the CPU, one row after the other: what every other implementation is compared with.
#pragma once

#include "token_compact/operator.h"

namespace skimrt
{

// As tokenCompact() in kernel.h, on host memory. Returns false, and writes nothing, for a problem out of range.
bool tokenCompactReference(TokenCompactProblem const& problem);

}  // namespace skimrt
