// The reference, and the kernel run on the host, as C functions for the Python tests.
#include "token_compact/kernel.h"
#include "token_compact/reference.h"

extern "C" bool skimrt_token_compact_by_reference(skimrt::TokenCompactProblem const* problem)
{
    return skimrt::tokenCompactReference(*problem);
}

extern "C" bool skimrt_token_compact_by_kernel(skimrt::TokenCompactProblem const* problem)
{
    return skimrt::tokenCompact(*problem, nullptr) == cudaSuccess;
}
