// Tests the reference.
#include "testing/token_compact_under_test.h"
#include "token_compact/reference.h"

bool skimrt::testing::runTokenCompact(TokenCompactProblem const& problem)
{
    return tokenCompactReference(problem);
}
