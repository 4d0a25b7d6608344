#!/bin/bash
# Runs all checks that a change must pass: the fast ones first, then every preset.
#   check.sh [--fast]    --fast leaves out the presets
# Needs scripts/bootstrap --dev.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

step() {
  echo "== $*"
  "$@"
}

step scripts/check_layers.py
step scripts/check_sizes.py
step scripts/check_changelog.py
step scripts/format.sh --check
mapfile -t shell < <(git grep -l --max-depth=3 '^#!/bin/bash' -- scripts .ci bench tests | grep -v '\.md$')
step shellcheck "${shell[@]}"
[[ ${1:-} != --fast ]] || exit 0

for preset in dev asan tsan tidy; do
  step cmake --workflow --preset "$preset"
done
