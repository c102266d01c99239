// What a TensorRT plugin registry looks for in the library (loadLibrary, trtexec --dynamicPlugins), and what library.py
// asks before it hands the library to one.
#include "log.h"
#include "token_compact/plugin.h"

// Counts up with every change of a C function or structure that Python declares for itself.
constexpr int32_t kAbiVersion = 2;

extern "C" int32_t skimrt_abi_version()
{
    return kAbiVersion;
}

extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder)
{
    skimrt::useLoggerFinder(finder);
}

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& nbCreators)
{
    static skimrt::TokenCompactCreator tokenCompact;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&tokenCompact};
    nbCreators = 1;
    return creators;
}
