// What a fuzz target offers to whatever drives it.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(uint8_t const* data, size_t size);

namespace skimrt::testing
{

// Inputs that got past the first check; a run in which none or all did has tested little.
extern long acceptedInputs;

}  // namespace skimrt::testing
