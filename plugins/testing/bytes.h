// Blocks of memory for the tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace skimrt::testing
{

// A heap block of exactly the given size, so that AddressSanitizer sees the first byte beyond it; 16-byte aligned.
class Bytes
{
public:
    explicit Bytes(size_t size, std::byte fill = {});
    std::byte* data() const;
    size_t size() const;
    bool operator==(Bytes const& other) const;

private:
    size_t mSize;
    std::unique_ptr<std::byte, void (*)(void*)> mData;
};

// A value that no implementation writes, for outputs before a call.
constexpr std::byte kUnwritten{0xa5};
constexpr int32_t kUnwrittenInt = -987654321;

// Fills `rows` as the golden cases are filled: element d of row g is (131 * g + 7 * d) mod 251 - 125.
void fillRows(Bytes const& rows, int64_t width, int64_t elementBytes);

}  // namespace skimrt::testing
