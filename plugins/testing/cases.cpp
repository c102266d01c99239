// Golden cases.
#include "testing/cases.h"

#include <fstream>
#include <sstream>
#include <stdexcept>

namespace skimrt::testing
{

std::vector<Case> readCases(std::string const& path)
{
    std::ifstream file(path);
    std::vector<Case> cases;
    std::string line;
    int number = 0;
    auto const fail
        = [&](std::string const& what) { throw std::runtime_error(path + ':' + std::to_string(number) + ": " + what); };
    while (std::getline(file, line))
    {
        ++number;
        std::istringstream words(line);
        std::string key;
        if (!(words >> key) || key[0] == '#')
        {
            continue;
        }
        std::string word;
        if (key == "case")
        {
            words >> word;
            cases.push_back({word, {}});
            continue;
        }
        if (cases.empty())
        {
            fail("a value before the first case");
        }
        while (words >> word)
        {
            size_t used = 0;
            double const value = std::stod(word, &used);  // reads nan and inf, which >> does not
            if (used != word.size())
            {
                fail("not a number: " + word);
            }
            cases.back().values[key].push_back(value);
        }
    }
    if (cases.empty())
    {
        fail("no cases: is the path right?");
    }
    return cases;
}

}  // namespace skimrt::testing
