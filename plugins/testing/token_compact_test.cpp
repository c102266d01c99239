// TokenCompact, one implementation to a program: the reference, the kernel run on the host, the kernel on a device.
// Usage: token_compact_test CASES.txt
#include "testing/check.h"
#include "testing/token_compact_call.h"
#include "testing/token_compact_under_test.h"
#include "token_compact/reference.h"

#include <algorithm>

using namespace skimrt;
using namespace skimrt::testing;

namespace
{

void testGoldenCases(std::string const& path)
{
    for (Case const& golden : readCases(path))
    {
        for (int64_t const elementBytes : {2, 4})
        {
            context = golden.name + " in elements of " + std::to_string(elementBytes) + " bytes";
            TokenCompactCall const call = fromCase(golden, elementBytes);
            TokenCompactOutputs const want = expected(golden, call);
            TokenCompactOutputs outputs = call.blank();
            CHECK(runTokenCompact(call.problem(outputs)));
            CHECK(outputs.alive == want.alive);
            CHECK(outputs.position == want.position);
            CHECK(outputs.count == want.count);
            CHECK(outputs.packed == want.packed);
        }
    }
}

// Shapes at the edges of the kernel: of a warp's word, of the rows of a block, of an access width, of the table.
void testAgainstReference()
{
    struct Shape
    {
        int32_t batch, length, capacity;
        int64_t rowBytes;
    };
    constexpr Shape kShapes[] = {
        {1, 31, 31, 16}, {2, 32, 8, 768}, {1, 64, 9, 1536}, {2, 65, 64, 2064},  // 16 bytes at a time
        {2, 40, 40, 12}, {1, 33, 33, 204},                                      // 4
        {2, 17, 16, 6}, {1, 48, 7, 130},                                        // 2
        {2, 19, 19, 5},                                                         // 1
        {1, kMaxLength, 24, 2},                                                 // a full table
        {64, 132, 128, 8},                                                      // two rows to a warp
    };
    std::mt19937 generator(1);
    for (Shape const& shape : kShapes)
    {
        context = "B " + std::to_string(shape.batch) + ", S " + std::to_string(shape.length) + ", C "
            + std::to_string(shape.capacity) + ", row " + std::to_string(shape.rowBytes) + " bytes";
        TokenCompactCall const call = randomCall(generator, shape.batch, shape.length, shape.capacity, shape.rowBytes);
        TokenCompactOutputs want = call.blank();
        TokenCompactOutputs outputs = call.blank();
        CHECK(tokenCompactReference(call.problem(want)));
        CHECK(runTokenCompact(call.problem(outputs)));
        CHECK(outputs == want);
    }
}

// Rows that start at an odd address cannot be moved 16 bytes at a time, whatever their size.
void testUnalignedRows()
{
    context = "rows of 32 bytes at an address that is a multiple of 2 only";
    std::mt19937 generator(2);
    TokenCompactCall const call = randomCall(generator, 1, 10, 10, 32);
    TokenCompactOutputs want = call.blank();
    TokenCompactOutputs outputs = call.blank();
    CHECK(tokenCompactReference(call.problem(want)));
    Bytes shifted(call.hidden.size() + 2);
    std::copy_n(call.hidden.data(), call.hidden.size(), shifted.data() + 2);
    TokenCompactProblem problem = call.problem(outputs);
    problem.hidden = shifted.data() + 2;
    CHECK(runTokenCompact(problem));
    CHECK(outputs == want);
}

void testRefusals()
{
    std::mt19937 generator(3);
    TokenCompactCall const call = randomCall(generator, 1, 4, 4, 8);
    TokenCompactOutputs outputs = call.blank();
    auto const isRefused = [&](auto const& change)
    {
        TokenCompactProblem problem = call.problem(outputs);
        change(problem);
        return !runTokenCompact(problem);
    };
    context = "out of range";
    CHECK(isRefused([](TokenCompactProblem& problem) { problem.batch = -1; }));
    CHECK(isRefused([](TokenCompactProblem& problem) { problem.length = 0; }));
    CHECK(isRefused([](TokenCompactProblem& problem) { problem.length = problem.capacity = kMaxLength + 1; }));
    CHECK(isRefused([](TokenCompactProblem& problem) { problem.capacity = 0; }));
    CHECK(isRefused([](TokenCompactProblem& problem) { problem.capacity = 5; }));
    CHECK(isRefused([](TokenCompactProblem& problem) { problem.rowBytes = 0; }));
    CHECK(!isRefused([](TokenCompactProblem& problem) { problem.batch = 0; }));
    CHECK(outputs == call.blank());
}

}  // namespace

int main(int argc, char** argv)
{
    if (argc != 2)
    {
        std::cerr << "usage: " << argv[0] << " CASES.txt\n";
        return 2;
    }
    testGoldenCases(argv[1]);
    testAgainstReference();
    testUnalignedRows();
    testRefusals();
    return finish();
}
