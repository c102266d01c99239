// The kernel of TokenCompact behind a C function, for ctypes; compiled by token_compact.py.
#include "token_compact/kernel.h"

extern "C" int32_t skimrt_token_compact(skimrt::TokenCompactProblem const* problem, cudaStream_t stream)
{
    return skimrt::tokenCompact(*problem, stream);
}

// So that the caller can see that its structure is laid out like this one.
extern "C" int64_t skimrt_token_compact_problem_size()
{
    return sizeof(skimrt::TokenCompactProblem);
}
