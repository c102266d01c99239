// Tests the kernel, run on the host.
#include "regroup/kernel.h"
#include "testing/regroup_under_test.h"

bool skimrt::testing::runRegroup(SkimrtRegroupSource const* sources, SkimrtRegroupTarget const* target)
{
    return skimrt_regroup(sources, target, nullptr) == 0;
}
