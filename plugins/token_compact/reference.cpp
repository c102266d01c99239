// TokenCompact on the CPU.
#include "token_compact/reference.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

namespace skimrt
{
namespace
{

void compactSample(TokenCompactProblem const& problem, int64_t sample)
{
    auto const isKept = [&, in = sample * problem.length](int32_t k)
    {
        bool const passes = problem.score[in + k] >= problem.threshold || (k == 0 && problem.protectFirst);
        return problem.alive[in + k] != 0 && passes;
    };
    std::vector<int32_t> order(problem.length);
    std::iota(order.begin(), order.end(), 0);
    auto const dead = std::stable_partition(order.begin(), order.end(), [&](int32_t k) { return k == 0 || isKept(k); });
    problem.count[sample] = static_cast<int32_t>(dead - order.begin());

    auto const* const hidden = static_cast<std::byte const*>(problem.hidden);
    auto* const packed = static_cast<std::byte*>(problem.packed);
    for (int32_t row = 0; row < problem.capacity; ++row)
    {
        int64_t const from = sample * problem.length + order[row];
        int64_t const to = sample * problem.capacity + row;
        std::memcpy(packed + to * problem.rowBytes, hidden + from * problem.rowBytes, problem.rowBytes);
        problem.packedAlive[to] = isKept(order[row]) ? 1 : 0;
        problem.packedPosition[to] = problem.position[from];
    }
}

}  // namespace

bool tokenCompactReference(TokenCompactProblem const& problem)
{
    if (!isValid(problem))
    {
        return false;
    }
    for (int64_t sample = 0; sample < problem.batch; ++sample)
    {
        compactSample(problem, sample);
    }
    return true;
}

}  // namespace skimrt
