#!/usr/bin/env bash
# Sets up .venv when needed, then runs the quality gates and the tests.
# --quick: what is not marked slow, for while one works.
# With other arguments: pytest alone, with those arguments.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/set_up.sh"
set_up
cd "$ROOT"
export PATH="$VENV/bin:$PATH"
if [ $# -eq 0 ] || [ "$1" = --quick ]; then
  ruff check .
  ruff format --check .
  mypy
  lint-imports
fi
if [ "${1-}" = --quick ]; then
  shift
  set -- -m "not slow and not long" "$@"
fi
exec python -m pytest "$@"
