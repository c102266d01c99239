// Bytes that TokenCompact moves, against the least that its definition allows: every input byte that reaches an output
// loaded once, every score and alive bit looked at once, every output stored once. Loads are counted while the kernel
// runs on the host. Stores are the size of the outputs: each is written (kernel tests), and no two threads write the
// same address (ThreadSanitizer).
#include "testing/check.h"
#include "testing/token_compact_call.h"
#include "token_compact/kernel.h"

#include <cstdio>
#include <cuda_runtime.h>

using namespace skimrt;
using namespace skimrt::testing;

namespace
{

void measure(int32_t batch, int32_t length, int32_t capacity, int64_t width)
{
    constexpr int64_t kBytesOfHalf = 2;
    std::mt19937 generator(7);
    TokenCompactCall call = randomCall(generator, batch, length, capacity, width * kBytesOfHalf);
    for (size_t row = 0; row < call.score.size(); ++row)
    {
        call.alive[row] = 1;
        call.score[row] = row % 5 < 2 ? 1.0F : 0.0F;  // 40 % alive
    }
    TokenCompactOutputs outputs = call.blank();
    host::takeLoadedBytes();
    CHECK(tokenCompact(call.problem(outputs), nullptr) == cudaSuccess);
    auto const loaded = static_cast<int64_t>(host::takeLoadedBytes());

    int64_t const rowsOut = static_cast<int64_t>(batch) * capacity;
    int64_t const stored = rowsOut * (call.rowBytes + 8) + 4 * static_cast<int64_t>(batch);
    int64_t const mustLoad = rowsOut * (call.rowBytes + 4) + static_cast<int64_t>(batch) * length * 8;
    double const ratio = static_cast<double>(loaded + stored) / static_cast<double>(mustLoad + stored);
    std::printf("B %3d, S %4d, C %4d, D %4ld, fp16: loads %9ld, stores %9ld, minimum %9ld, ratio %.3f\n", batch, length,
        capacity, static_cast<long>(width), static_cast<long>(loaded), static_cast<long>(stored),
        static_cast<long>(mustLoad + stored), ratio);
    context = "B " + std::to_string(batch) + ", S " + std::to_string(length) + ", C " + std::to_string(capacity);
    CHECK(loaded >= mustLoad);
    CHECK(ratio <= 1.1);
}

}  // namespace

int main()
{
    measure(32, 512, 512, 768);
    measure(32, 512, 256, 768);
    measure(8, 128, 128, 768);
    measure(1, 128, 64, 384);
    return finish();
}
