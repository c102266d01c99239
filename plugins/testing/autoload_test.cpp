// Opens libskimrt_autoload.so as Triton does. Linked with fake_nvinfer.cpp it must hand over the plugin library beside
// it. Without a TensorRT in the process it must say so and leave the program alone.
//
// Usage: autoload_test AUTOLOAD_LIBRARY EXPECTED_PATH
#include "testing/check.h"

#include <dlfcn.h>

using namespace skimrt::testing;

int main(int argc, char** argv)
{
    if (argc != 3)
    {
        std::cerr << "usage: " << argv[0] << " AUTOLOAD_LIBRARY EXPECTED_PATH\n";
        return 2;
    }
    CHECK(dlopen(argv[1], RTLD_LAZY) != nullptr);
    using LoadedPath = char const* (*)();
    auto const loadedPath = reinterpret_cast<LoadedPath>(dlsym(RTLD_DEFAULT, "fakeLoadedPath"));
    context = argv[2];
    CHECK((loadedPath != nullptr ? loadedPath() : std::string()) == argv[2]);
    return finish();
}
