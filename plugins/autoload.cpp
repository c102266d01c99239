// libskimrt_autoload.so hands libskimrt_plugins.so, which lies beside it, to TensorRT as soon as it is loaded itself.
// For programs that have loaded TensorRT, only open a plugin library and expect it to register its plugins, as Triton's
// TensorRT backend does. Everything else hands libskimrt_plugins.so to a plugin registry.
//
// The registry's table of virtual functions differs between major versions, so it looks for the TensorRT of the headers
// that it was compiled with, by name, among the libraries of the process, and for no other.
#include <NvInferRuntime.h>
#include <cstdio>
#include <dlfcn.h>
#include <string>

namespace
{

constexpr char const* kPlugins = "libskimrt_plugins.so";

std::string folderOf(void const* address)
{
    Dl_info info{};
    std::string const path = dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
    size_t const slash = path.rfind('/');
    return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

std::string registerPlugins()
{
    std::string const tensorrt = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
    void* const library = dlopen(tensorrt.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr)
    {
        return "expected " + tensorrt
            + " among the libraries of this process, found none. Build SkimRT with "
              "TENSORRT_ROOT set to the TensorRT that this process uses, or load that first.";
    }
    using GetPluginRegistry = nvinfer1::IPluginRegistry* (*)();
    auto const getRegistry = reinterpret_cast<GetPluginRegistry>(dlsym(library, "getPluginRegistry"));
    std::string const plugins = folderOf(reinterpret_cast<void const*>(&registerPlugins)) + kPlugins;
    bool const isLoaded = getRegistry != nullptr && getRegistry()->loadLibrary(plugins.c_str()) != nullptr;
    dlclose(library);  // only the reference that dlopen added
    return isLoaded ? "" : "expected " + tensorrt + " to load " + plugins + "; its log says why it did not.";
}

[[gnu::constructor]] void registerOnLoad()
{
    std::string const error = registerPlugins();
    if (!error.empty())
    {
        std::fprintf(stderr, "libskimrt_autoload.so: %s\n", error.c_str());
    }
}

}  // namespace
