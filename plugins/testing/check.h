// The checks of the C++ tests: counted, reported with their place and a note on the case, never thrown.
#pragma once

#include <iostream>
#include <string>

namespace skimrt::testing
{

inline int checks = 0;
inline int failures = 0;
inline std::string context;  // what is being tested, printed with a failure

inline void check(bool holds, char const* what, char const* file, int line)
{
    ++checks;
    if (!holds)
    {
        ++failures;
        std::cerr << file << ':' << line << ": failed: " << what << (context.empty() ? "" : "  in ") << context << '\n';
    }
}

// The exit status of a test program.
inline int finish()
{
    std::cout << checks << " checks, " << failures << " failed\n";
    return failures == 0 && checks > 0 ? 0 : 1;
}

}  // namespace skimrt::testing

#define CHECK(condition) ::skimrt::testing::check(static_cast<bool>(condition), #condition, __FILE__, __LINE__)
