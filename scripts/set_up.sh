# Sourced by run_mlops.sh and run_tests.sh: Java, and .venv from requirements.lock, when needed.
# Sets ROOT (the repository) and VENV.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
OLDEST_JAVA=17

fail() {
  echo "error: $*" >&2
  exit 1
}

on_debian_as_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

install_package() {
  echo "set-up: installing Debian's $1" >&2
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends "$1"; } >/dev/null 2>&1 || fail "Debian's package $1 could not be" \
    "installed. Run: apt-get install $1"
}

java_version() {
  local java="java"
  [ -n "${JAVA_HOME:-}" ] && java="$JAVA_HOME/bin/java"
  "$java" -version 2>&1 | sed -nE 's/.*version "(1\.)?([0-9]+).*/\2/p' | head -n 1
}

ensure_java() {
  local found
  found="$(java_version)"
  if [ -z "$found" ] && [ -z "${JAVA_HOME:-}" ] && on_debian_as_root; then
    install_package default-jre-headless
    found="$(java_version)"
  fi
  [ -n "$found" ] || fail "Spark needs Java $OLDEST_JAVA or newer: none found at" \
    "${JAVA_HOME:-PATH}. Install it (Debian: apt-get install default-jre-headless)"
  [ "$found" -ge "$OLDEST_JAVA" ] || fail "Spark needs Java $OLDEST_JAVA or newer: found $found." \
    "Install a newer one, or point JAVA_HOME at it"
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
      2>/dev/null; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  fail "Python 3.10 to 3.13 is needed: found $(python3 --version 2>&1 || echo none)." \
    "Install one, or name it: PYTHON=/path/to/python $0"
}

lock_digest() {
  cat "$ROOT/requirements.lock" "$ROOT/pyproject.toml" | cksum
}

make_venv() {
  local python="$1"
  [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
  rm -rf "$VENV"
  if ! "$python" -m venv "$VENV" >/dev/null 2>&1; then
    rm -rf "$VENV"
    on_debian_as_root || fail "Python's venv module is needed: $python has none." \
      "Install it (Debian: apt-get install python3-venv)"
    install_package "python3-venv"
    "$python" -m venv "$VENV" || fail "No virtual environment could be made in $VENV"
  fi
}

ensure_venv() {
  local stamp="$VENV/.made-from" digest python
  digest="$(lock_digest)"
  [ "$(cat "$stamp" 2>/dev/null)" = "$digest" ] && return
  [ -w "$ROOT" ] || fail "The repository's folder must be writable for .venv: $ROOT." \
    "Copy it to a folder you may write to"
  python="$(find_python)" || exit 1
  echo "set-up: .venv from requirements.lock, a few minutes the first time" >&2
  make_venv "$python"
  "$VENV/bin/python" -m pip install --disable-pip-version-check --no-warn-script-location \
    -q -r "$ROOT/requirements.lock" \
    || fail "The packages of requirements.lock could not be installed; see pip's message above"
  "$VENV/bin/python" -m pip install --disable-pip-version-check -q --no-deps \
    --no-build-isolation -e "$ROOT" || fail "The project could not be installed into .venv"
  echo "$digest" >"$stamp" # last: a set-up that was killed starts again
}

set_up() {
  ensure_java
  if command -v flock >/dev/null 2>&1 && [ -w "$ROOT" ]; then
    exec 9>"$ROOT/.venv.lock"
    flock 9 # two commands started at once make one .venv
    ensure_venv
    exec 9>&-
  else
    ensure_venv
  fi
}
