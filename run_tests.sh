#!/usr/bin/env bash
# Sets up .venv when needed, then runs the quality gates and the tests, several at a time.
# --quick: what is not marked slow or long, without mypy, for while one works. --all: everything,
# as CI does.
# --lint: the gates alone. With other arguments: pytest alone, with those arguments.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/scripts/set_up.sh"
set_up
cd "$ROOT"
export PATH="$VENV/bin:$PATH"
workers=5 # more than two cores: tests wait for processes, too
alone=0
case "${1-}" in
  "") chosen="not long" ;;
  --quick) chosen="not slow and not long" ;;
  --all) chosen="not alone" ;;
  --lint) chosen="" ;;
  *) exec python -m pytest "$@" ;;
esac
# Once: else each worker compiles what it imports.
if [ ! "$VENV/.compiled" -nt "$VENV/pyvenv.cfg" ]; then
  python -m compileall -q -j 0 -x '/tests?/|/(pip|setuptools)/' "$VENV/lib" >/dev/null 2>&1 || true
  touch "$VENV/.compiled"
fi
ruff check .
ruff format --check .
if [ -z "$chosen" ]; then
  mypy
  lint-imports
  exit 0
fi
shift || true
said="$(mktemp)"
trap 'rm -rf "$said" ${scratch:+"$scratch"}' EXIT
# Homes are written and removed thousands of times: in memory, where there is plenty of it.
if [ "$chosen" != "not alone" ] && ! grep -qs " /dev/shm .*noexec" /proc/mounts &&
  [ "$(awk '/^MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo 2>/dev/null || true)" -ge 12 ] 2>/dev/null &&
  [ "$(df -Pk /dev/shm 2>/dev/null | awk 'END {print int($4 / 1048576)}')" -ge 8 ] 2>/dev/null; then
  scratch="$(mktemp -d -p /dev/shm)"
  export TMPDIR="$scratch"
fi
others=0
if [ "$chosen" = "not alone" ]; then
  # First those that no others may be beside, but for one of them: the last line is the one people
  # and CI read. All of them are long.
  python -m pytest -q -n 2 --dist loadfile -m alone "$@" || alone=$?
fi
( # beside the tests, which leave a core idle now and then
  # In a clone, without its cache, mypy takes half a minute of a core.
  if [ "$chosen" != "not slow and not long" ]; then mypy; fi
  lint-imports
) >"$said" 2>&1 &
beside=$!
python -m pytest -n "$workers" --dist loadfile --no-loadscope-reorder -m "$chosen" "$@" || others=$?
if ! wait "$beside"; then
  cat "$said" >&2
  exit 1
fi
exit $((alone ? alone : others))
