// What TokenCompact is given and gives back: the one description that the kernel, the reference and the plugin share.
#pragma once

#include <cstdint>

namespace skimrt
{

// The longest sample: a block scans one word of 32 rows per entry of a table in shared memory.
constexpr int32_t kMaxLength = 4096;

// One call. All tensors are dense and row-major; no output may overlap an input.
struct TokenCompactProblem
{
    int32_t batch;      // B
    int32_t length;     // S, rows of a sample that come in; 1 to kMaxLength
    int32_t capacity;   // C, rows of a sample that go out; 1 to S
    int64_t rowBytes;   // D times the size of an element; rows are moved as bytes, bit for bit
    float threshold;    // a row is kept iff score >= threshold, compared in float32; a NaN score is not kept
    bool protectFirst;  // row 0 is kept whatever its score

    void const* hidden;       // [B, S, rowBytes]
    float const* score;       // [B, S]
    int32_t const* alive;     // [B, S], a row that is 0 stays dead; anything else is alive
    int32_t const* position;  // [B, S]

    void* packed;             // [B, C, rowBytes]
    int32_t* packedAlive;     // [B, C], 0 or 1
    int32_t* packedPosition;  // [B, C]
    int32_t* count;           // [B], rows carried on: the kept ones and row 0; may exceed C
};

// Whether the numbers above are in range. Pointers are the caller's promise.
inline bool isValid(TokenCompactProblem const& problem)
{
    return problem.batch >= 0 && problem.length >= 1 && problem.length <= kMaxLength && problem.capacity >= 1
        && problem.capacity <= problem.length && problem.rowBytes >= 1;
}

}  // namespace skimrt
