// Calls a libFuzzer target with random inputs of a fixed seed, for compilers without libFuzzer.
// Usage: fuzz_driver CASES
#include "testing/fuzz_target.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

int main(int argc, char** argv)
{
    long const cases = argc == 2 ? std::atol(argv[1]) : 0;
    if (cases <= 0)
    {
        std::fprintf(stderr, "usage: %s CASES\n", argv[0]);
        return 2;
    }
    std::mt19937 generator(20240229);
    for (long i = 0; i < cases; ++i)
    {
        std::vector<uint8_t> input(generator() % 192);
        std::generate(input.begin(), input.end(), [&] { return static_cast<uint8_t>(generator()); });
        LLVMFuzzerTestOneInput(input.data(), input.size());
    }
    long const accepted = skimrt::testing::acceptedInputs;
    std::printf("%ld cases, %ld of them with accepted fields, no crash\n", cases, accepted);
    return accepted > 0 && accepted < cases ? 0 : 1;
}
