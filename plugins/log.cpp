// Messages of the plugins.
#include "log.h"

#include <atomic>
#include <cstdio>

namespace skimrt
{
namespace
{

std::atomic<nvinfer1::ILoggerFinder*> loggerFinder{nullptr};

}  // namespace

void useLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept
{
    loggerFinder = finder;
}

void logError(std::string const& message) noexcept
{
    nvinfer1::ILoggerFinder* const finder = loggerFinder;
    nvinfer1::ILogger* const logger = finder != nullptr ? finder->findLogger() : nullptr;
    if (logger != nullptr)
    {
        logger->log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
    }
    else
    {
        std::fprintf(stderr, "%s\n", message.c_str());
    }
}

}  // namespace skimrt
