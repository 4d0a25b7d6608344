#!/bin/bash
# Formats the C and C++ sources with clang-format 16; --check only reports differences.
#   format.sh [--check] [FILE...]
set -euo pipefail
mode=(-i)
if [[ ${1:-} == --check ]]; then
  mode=(--dry-run --Werror)
  shift
fi
cd "$(dirname "$(readlink -f "$0")")/.."
if (($#)); then
  clang-format-16 "${mode[@]}" "$@"
else
  git ls-files -z -- '*.cpp' '*.h' '*.c' | xargs -0 clang-format-16 "${mode[@]}"
fi
