// Golden cases: text files of lines "key value value ...", one case after each line "case NAME".
#pragma once

#include <map>
#include <string>
#include <vector>

namespace skimrt::testing
{

struct Case
{
    std::string name;
    std::map<std::string, std::vector<double>> values;  // lines of the same key joined

    // The values of `key` in a type that holds them exactly; throws std::out_of_range when the case has no such key.
    template <typename T>
    std::vector<T> get(std::string const& key) const
    {
        std::vector<double> const& from = values.at(key);
        std::vector<T> to;
        to.reserve(from.size());
        for (double const value : from)
        {
            to.push_back(static_cast<T>(value));
        }
        return to;
    }
    template <typename T>
    T one(std::string const& key) const
    {
        return static_cast<T>(values.at(key).at(0));
    }
};

// Throws std::runtime_error with file and line for a file that cannot be read.
std::vector<Case> readCases(std::string const& path);

}  // namespace skimrt::testing
