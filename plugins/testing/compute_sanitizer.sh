#!/bin/sh
# Runs the device tests under every tool of compute-sanitizer: memory errors, uses of unset memory, races in shared
# memory, wrong barriers. For a machine with a CUDA device; status 77 without one, or without compute-sanitizer.
# Usage: compute_sanitizer.sh [BUILD_FOLDER]
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$source/../build}

if ! command -v compute-sanitizer >/dev/null; then
    echo "SKIP: compute-sanitizer is not installed (it comes with the CUDA toolkit)"
    exit 77
fi
for operator in token_compact regroup; do
    for tool in memcheck initcheck racecheck synccheck; do
        echo "== $operator, $tool"
        compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$build/bin/${operator}_device" "$source/$operator/cases.txt"
    done
done
