// What a TensorRT plugin registry looks for in the library (loadLibrary, trtexec --dynamicPlugins).
#include "log.h"
#include "token_compact/plugin.h"

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
