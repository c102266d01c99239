// Regroup, one implementation to a program: the reference or the kernel run on the host.
// Usage: regroup_test CASES.txt
#include "testing/bytes.h"
#include "testing/cases.h"
#include "testing/check.h"
#include "testing/regroup_under_test.h"

#include <cstring>

using namespace skimrt;
using namespace skimrt::testing;

namespace
{

struct Tensors
{
    Bytes hidden;
    std::vector<int32_t> alive, position;
};

Tensors sourceRows(int64_t rows, int64_t width, int64_t elementBytes)
{
    Tensors tensors{Bytes(rows * width * elementBytes), {}, {}};
    fillRows(tensors.hidden, width, elementBytes);
    for (int32_t row = 0; row < rows; ++row)
    {
        tensors.alive.push_back(row % 3 != 0);
        tensors.position.push_back(2 * row + 1);
    }
    return tensors;
}

Tensors blankRows(int64_t rows, int64_t rowBytes)
{
    return {Bytes(rows * rowBytes, kUnwritten), std::vector<int32_t>(rows, kUnwrittenInt),
        std::vector<int32_t>(rows, kUnwrittenInt)};
}

// What must come out when row i of the target is row order[i] of the sources, -1 for a cleared one.
Tensors gather(Tensors const& from, std::vector<int64_t> const& order, int64_t rowBytes)
{
    Tensors to{Bytes(order.size() * rowBytes), {}, {}};
    for (size_t i = 0; i < order.size(); ++i)
    {
        bool const isCleared = order[i] < 0;
        to.alive.push_back(isCleared ? 0 : from.alive[order[i]]);
        to.position.push_back(isCleared ? SKIMRT_NO_POSITION : from.position[order[i]]);
        if (!isCleared)
        {
            std::memcpy(to.hidden.data() + i * rowBytes, from.hidden.data() + order[i] * rowBytes, rowBytes);
        }
    }
    return to;
}

void testGoldenCase(Case const& golden, int64_t elementBytes)
{
    auto const buffers = golden.get<int32_t>("buffers");
    auto const entries = golden.get<int32_t>("sources");
    auto const target = golden.get<int32_t>("target");
    int64_t const rowBytes = golden.one<int64_t>("width") * elementBytes;

    std::vector<int64_t> firstRow{0};
    for (size_t i = 0; i < buffers.size(); i += 2)
    {
        firstRow.push_back(firstRow.back() + static_cast<int64_t>(buffers[i]) * buffers[i + 1]);
    }
    Tensors const from = sourceRows(firstRow.back(), golden.one<int64_t>("width"), elementBytes);
    std::vector<SkimrtRegroupSource> sources;
    for (size_t i = 0; i < entries.size(); i += 2)
    {
        int32_t const buffer = entries[i];
        sources.push_back(buffer < 0
                ? SkimrtRegroupSource{}
                : SkimrtRegroupSource{from.hidden.data() + firstRow[buffer] * rowBytes,
                      from.alive.data() + firstRow[buffer], from.position.data() + firstRow[buffer], entries[i + 1],
                      buffers[2 * buffer + 1]});
    }
    Tensors to = blankRows(static_cast<int64_t>(target[0]) * target[1], rowBytes);
    SkimrtRegroupTarget const call{
        to.hidden.data(), to.alive.data(), to.position.data(), target[0], target[1], rowBytes};
    CHECK(runRegroup(sources.data(), &call));
    Tensors const want = gather(from, golden.get<int64_t>("rows"), rowBytes);
    CHECK(to.hidden == want.hidden);
    CHECK(to.alive == want.alive);
    CHECK(to.position == want.position);
}

void testRefusals()
{
    context = "out of range";
    Tensors const from = sourceRows(2, 2, 4);
    Tensors to = blankRows(2, 8);
    SkimrtRegroupSource const source{from.hidden.data(), from.alive.data(), from.position.data(), 0, 2};
    SkimrtRegroupTarget const target{to.hidden.data(), to.alive.data(), to.position.data(), 1, 2, 8};
    auto const targetIsRefused = [&](auto const& change)
    {
        SkimrtRegroupTarget changed = target;
        change(changed);
        return !runRegroup(&source, &changed);
    };
    auto const sourceIsRefused = [&](auto const& change)
    {
        SkimrtRegroupSource changed = source;
        change(changed);
        return !runRegroup(&changed, &target);
    };
    CHECK(!runRegroup(&source, nullptr));
    CHECK(!runRegroup(nullptr, &target));
    CHECK(targetIsRefused([](SkimrtRegroupTarget& changed) { changed.batch = -1; }));
    CHECK(targetIsRefused([](SkimrtRegroupTarget& changed) { changed.length = 0; }));
    CHECK(targetIsRefused([](SkimrtRegroupTarget& changed) { changed.row_bytes = 0; }));
    CHECK(targetIsRefused([](SkimrtRegroupTarget& changed) { changed.hidden = nullptr; }));
    CHECK(targetIsRefused([](SkimrtRegroupTarget& changed) { changed.alive = nullptr; }));
    CHECK(targetIsRefused([](SkimrtRegroupTarget& changed) { changed.position = nullptr; }));
    CHECK(sourceIsRefused([](SkimrtRegroupSource& changed) { changed.alive = nullptr; }));
    CHECK(sourceIsRefused([](SkimrtRegroupSource& changed) { changed.position = nullptr; }));
    CHECK(sourceIsRefused([](SkimrtRegroupSource& changed) { changed.sample = -1; }));
    CHECK(sourceIsRefused([](SkimrtRegroupSource& changed) { changed.length = 0; }));
    CHECK(!targetIsRefused([](SkimrtRegroupTarget& changed) { changed.batch = 0; }));
    CHECK(to.alive == std::vector<int32_t>(2, kUnwrittenInt));
    CHECK(to.hidden == Bytes(16, kUnwritten));
}

}  // namespace

int main(int argc, char** argv)
{
    if (argc != 2)
    {
        std::cerr << "usage: " << argv[0] << " CASES.txt\n";
        return 2;
    }
    for (Case const& golden : readCases(argv[1]))
    {
        for (int64_t const elementBytes : {2, 4})
        {
            context = golden.name + " in elements of " + std::to_string(elementBytes) + " bytes";
            testGoldenCase(golden, elementBytes);
        }
    }
    testRefusals();
    return finish();
}
