#!/bin/sh
# Says in one line what this machine lacks to build the native part; prints nothing where it can be built.
set -u
lists=$(dirname "$0")/../CMakeLists.txt
wanted=$(sed -n 's/^cmake_minimum_required(VERSION \([0-9.]*\).*/\1/p' "$lists")

if ! command -v cmake >/dev/null; then
  echo "cmake is not installed"
  exit
fi
found=$(cmake --version | sed -n 's/^cmake version \([0-9.]*\).*/\1/p')
if [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
  echo "cmake is ${found:-of an unknown version}, $wanted or newer is needed"
  exit
fi

# $CXX or what CMake looks for; $CXX may hold arguments, as in "ccache g++".
compiles() { echo '#include <string_view>' | "$@" -std=c++17 -fsyntax-only -x c++ - 2>/dev/null; }
if [ -n "${CXX:-}" ]; then
  compiles $CXX || echo "CXX=$CXX is no C++17 compiler"
else
  compiles c++ || compiles g++ || compiles clang++ || echo "no C++17 compiler is installed"
fi
