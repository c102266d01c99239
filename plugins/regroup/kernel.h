/* Regroup on a CUDA device, as plain C functions of the plugin library. */
#pragma once

#include "regroup/operator.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* sources: host array of target->batch entries, read before the call returns; their pointers, and the target's, are
   device memory. The copies are put on `stream` (one launch per 64 samples); nothing is allocated or waited for, so the
   call may be captured into a CUDA graph (which then holds these very addresses).
   Returns 0, or a CUDA error code: cudaErrorInvalidValue (1) when a size or a pointer is out of range, and then nothing
   was launched. */
int32_t skimrt_regroup(SkimrtRegroupSource const* sources, SkimrtRegroupTarget const* target, cudaStream_t stream);

/* The text of a code that skimrt_regroup returned. */
char const* skimrt_error_string(int32_t code);

#ifdef __cplusplus
}
#endif
