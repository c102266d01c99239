// One call of TokenCompact on host memory: the tensors, filled from a golden case or at random, and what came out.
#pragma once

#include "testing/bytes.h"
#include "testing/cases.h"
#include "token_compact/operator.h"

#include <random>
#include <vector>

namespace skimrt::testing
{

struct TokenCompactOutputs
{
    Bytes packed;
    std::vector<int32_t> alive, position, count;
};

struct TokenCompactCall
{
    int32_t batch, length, capacity;
    int64_t rowBytes;
    float threshold;
    bool protectFirst;
    Bytes hidden;
    std::vector<float> score;
    std::vector<int32_t> alive, position;

    // Outputs of the right size, filled with a value that no implementation writes.
    TokenCompactOutputs blank() const;

    // The problem that reads this call and writes `outputs`.
    TokenCompactProblem problem(TokenCompactOutputs& outputs) const;
};

// The inputs of a golden case, in elements of `elementBytes` bytes.
TokenCompactCall fromCase(Case const& golden, int64_t elementBytes);

// What the golden case says must come out.
TokenCompactOutputs expected(Case const& golden, TokenCompactCall const& call);

// About half of the rows pass; some are dead on arrival, some scores are NaN or exactly at the threshold.
TokenCompactCall randomCall(std::mt19937& generator, int32_t batch, int32_t length, int32_t capacity, int64_t rowBytes);

bool operator==(TokenCompactOutputs const& left, TokenCompactOutputs const& right);

}  // namespace skimrt::testing
