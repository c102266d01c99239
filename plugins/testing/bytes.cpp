// Blocks of memory for the tests.
#include "testing/bytes.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace skimrt::testing
{
namespace
{

std::byte* allocate(size_t size)
{
    void* data = nullptr;
    if (posix_memalign(&data, 16, std::max<size_t>(size, 1)) != 0)
    {
        throw std::bad_alloc();
    }
    return static_cast<std::byte*>(data);
}

}  // namespace

Bytes::Bytes(size_t size, std::byte fill)
    : mSize(size)
    , mData(allocate(size), std::free)
{
    std::fill_n(mData.get(), size, fill);
}

std::byte* Bytes::data() const
{
    return mData.get();
}

size_t Bytes::size() const
{
    return mSize;
}

bool Bytes::operator==(Bytes const& other) const
{
    return mSize == other.mSize && std::memcmp(data(), other.data(), mSize) == 0;
}

void fillRows(Bytes const& rows, int64_t width, int64_t elementBytes)
{
    int64_t const elements = static_cast<int64_t>(rows.size()) / elementBytes;
    for (int64_t i = 0; i < elements; ++i)
    {
        auto const value = static_cast<int32_t>((131 * (i / width) + 7 * (i % width)) % 251 - 125);
        std::memcpy(rows.data() + i * elementBytes, &value, elementBytes);
    }
}

}  // namespace skimrt::testing
