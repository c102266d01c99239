/* Regroup: fills the input of the next bucket with samples that lie in the outputs of others. C, so that ctypes and any
   other language can call it. */
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where one sample comes from. All three arrays are dense with `length` rows to a sample, [samples, length(, D)].
   A null `hidden` stands for no sample at all: every row of the target is cleared. */
typedef struct SkimrtRegroupSource
{
    void const* hidden;      /* [samples, length, row_bytes] */
    int32_t const* alive;    /* [samples, length] */
    int32_t const* position; /* [samples, length] */
    int32_t sample;          /* index of the sample in the arrays above */
    int32_t length;          /* rows to a sample there; more than the target has are left behind, fewer are filled up */
} SkimrtRegroupSource;

/* The input of the next bucket. No array of it may overlap a source. A cleared row has hidden 0, alive 0 and position
   SKIMRT_NO_POSITION, so that it can never be taken for a row of the text. */
typedef struct SkimrtRegroupTarget
{
    void* hidden;      /* [batch, length, row_bytes] */
    int32_t* alive;    /* [batch, length] */
    int32_t* position; /* [batch, length] */
    int32_t batch;
    int32_t length;
    int64_t row_bytes; /* D times the size of an element */
} SkimrtRegroupTarget;

enum
{
    SKIMRT_NO_POSITION = -1
};

#ifdef __cplusplus
}
#endif
