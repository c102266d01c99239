// Tests the kernel, run on the host.
#include "testing/token_compact_under_test.h"
#include "token_compact/kernel.h"

bool skimrt::testing::runTokenCompact(TokenCompactProblem const& problem)
{
    return tokenCompact(problem, nullptr) == cudaSuccess;
}
