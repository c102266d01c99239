// Tests the reference.
#include "regroup/reference.h"
#include "testing/regroup_under_test.h"

bool skimrt::testing::runRegroup(SkimrtRegroupSource const* sources, SkimrtRegroupTarget const* target)
{
    return regroupReference(sources, target);
}
