// The reference as a C function for the Python tests; the kernels, run on the host, bring their own.
#include "token_compact/reference.h"

extern "C" bool skimrt_token_compact_by_reference(skimrt::TokenCompactProblem const* problem)
{
    return skimrt::tokenCompactReference(*problem);
}
