// One call of TokenCompact on host memory.
#include "testing/token_compact_call.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace skimrt::testing
{

bool operator==(TokenCompactOutputs const& left, TokenCompactOutputs const& right)
{
    return left.packed == right.packed && left.alive == right.alive && left.position == right.position
        && left.count == right.count;
}

TokenCompactOutputs TokenCompactCall::blank() const
{
    size_t const rows = static_cast<size_t>(batch) * capacity;
    return {Bytes(rows * rowBytes, kUnwritten), std::vector<int32_t>(rows, kUnwrittenInt),
        std::vector<int32_t>(rows, kUnwrittenInt), std::vector<int32_t>(batch, kUnwrittenInt)};
}

TokenCompactProblem TokenCompactCall::problem(TokenCompactOutputs& outputs) const
{
    return {batch, length, capacity, rowBytes, threshold, protectFirst, hidden.data(), score.data(), alive.data(),
        position.data(), outputs.packed.data(), outputs.alive.data(), outputs.position.data(), outputs.count.data()};
}

TokenCompactCall fromCase(Case const& golden, int64_t elementBytes)
{
    auto const shape = golden.get<int32_t>("shape");
    auto const capacity = golden.one<int32_t>("capacity");
    int64_t const rows = static_cast<int64_t>(shape[0]) * shape[1];
    int64_t const width = shape[2];
    Bytes hidden(rows * width * elementBytes);
    fillRows(hidden, width, elementBytes);
    return {shape[0], shape[1], capacity == 0 ? shape[1] : capacity, width * elementBytes,
        golden.one<float>("threshold"), golden.one<int32_t>("protect_first") == 1, std::move(hidden),
        golden.get<float>("score"), golden.get<int32_t>("alive"), golden.get<int32_t>("position")};
}

TokenCompactOutputs expected(Case const& golden, TokenCompactCall const& call)
{
    TokenCompactOutputs outputs = call.blank();
    outputs.alive = golden.get<int32_t>("packed_alive");
    outputs.position = golden.get<int32_t>("packed_position");
    outputs.count = golden.get<int32_t>("count");
    auto const source = golden.get<int64_t>("source");
    for (size_t row = 0; row < source.size(); ++row)
    {
        int64_t const from = static_cast<int64_t>(row) / call.capacity * call.length + source[row];
        std::memcpy(
            outputs.packed.data() + row * call.rowBytes, call.hidden.data() + from * call.rowBytes, call.rowBytes);
    }
    return outputs;
}

TokenCompactCall randomCall(std::mt19937& generator, int32_t batch, int32_t length, int32_t capacity, int64_t rowBytes)
{
    size_t const rows = static_cast<size_t>(batch) * length;
    TokenCompactCall call{batch, length, capacity, rowBytes, 0.5F, generator() % 2 == 0, Bytes(rows * rowBytes),
        std::vector<float>(rows), std::vector<int32_t>(rows), std::vector<int32_t>(rows)};
    std::generate_n(call.hidden.data(), call.hidden.size(), [&] { return static_cast<std::byte>(generator()); });
    for (size_t row = 0; row < rows; ++row)
    {
        uint32_t const kind = generator() % 16;
        call.score[row] = kind == 0 ? NAN : kind == 1 ? 0.5F : static_cast<float>(generator() % 1000) / 1000.0F;
        call.alive[row] = generator() % 5 != 0;
        call.position[row] = static_cast<int32_t>(row);
    }
    return call;
}

}  // namespace skimrt::testing
