# Sourced by run_mlops.sh and run_tests.sh: .venv from requirements.lock, when needed.
# Sets ROOT (the repository) and VENV.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

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

# In a sixth of pip's time. Where uv does not get on (a proxy, an index of one's own), pip does the
# same. In a shell of its own: what uv is told of the index is for uv alone.
install_by_uv() (
  python="$VENV/bin/python" index="${UV_DEFAULT_INDEX:-}"
  if "$python" -m pip config list 2>/dev/null | grep -qE '[.](no-index|extra-index-url)='; then
    return 1
  fi
  "$python" -m pip install --disable-pip-version-check --no-warn-script-location -q \
    "$(grep -oE '^uv==[^ ]+' "$ROOT/requirements.lock")" || return 1
  [ -n "$index" ] || index="${PIP_INDEX_URL:-}"
  [ -n "$index" ] || index="$(pip_setting index-url)"
  [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
  certificates="${SSL_CERT_FILE:-${PIP_CERT:-}}"
  [ -n "$certificates" ] || certificates="$(pip_setting cert)"
  [ -z "$certificates" ] || export SSL_CERT_FILE="$certificates"
  install_locked 2>"$VENV/uv.log" && return
  # An index whose certificate only the machine's own store knows. (NATIVE_TLS: its older name.)
  export UV_SYSTEM_CERTS=true UV_NATIVE_TLS=true
  install_locked 2>>"$VENV/uv.log"
)

# What pip's configuration says for all commands. (`pip config get` denies what `list` shows.)
pip_setting() {
  "$VENV/bin/python" -m pip config list 2>/dev/null | sed -n "s/^global[.]$1='\(.*\)'$/\1/p"
}

# The lock is complete, so nothing is resolved; PySpark's jars are compressed already.
install_locked() {
  "$VENV/bin/uv" pip install --python "$VENV/bin/python" -q --no-deps \
    -r "$ROOT/requirements.lock" \
    --config-settings-package "pyspark:--build-option=--compression=stored"
}

install_by_pip() {
  "$VENV/bin/python" -m pip install --disable-pip-version-check --no-warn-script-location \
    -q -r "$ROOT/requirements.lock"
}

# With all that builds it installed, nothing is fetched.
install_project() {
  "$VENV/bin/uv" pip install --python "$VENV/bin/python" -q --offline --no-deps \
    --no-build-isolation -e "$ROOT" 2>>"$VENV/uv.log" && return
  "$VENV/bin/python" -m pip install --disable-pip-version-check -q --no-deps \
    --no-build-isolation -e "$ROOT"
}

ensure_venv() {
  local stamp="$VENV/.made-from" digest python
  digest="$(lock_digest) $ROOT"
  [ "$(cat "$stamp" 2>/dev/null)" = "$digest" ] && return
  # Made for another folder, its commands lead there: it was moved or copied with the checkout.
  [ ! -e "$stamp" ] || [ "$(cut -d' ' -f3- "$stamp")" = "$ROOT" ] || rm -rf "$VENV"
  [ -w "$ROOT" ] || fail "The repository's folder must be writable for .venv: $ROOT." \
    "Copy it to a folder you may write to"
  python="$(find_python)" || exit 1
  echo "set-up: .venv from requirements.lock, half a minute to a few minutes, the first time" >&2
  make_venv "$python"
  install_by_uv || install_by_pip \
    || fail "The packages of requirements.lock could not be installed; see pip's message above"
  install_project || fail "The project could not be installed into .venv"
  echo "$digest" >"$stamp" # last: a set-up that was killed starts again
}

set_up() {
  if command -v flock >/dev/null 2>&1 && [ -w "$ROOT" ]; then
    exec 9>"$ROOT/.venv.lock"
    flock 9 # two commands started at once make one .venv
    ensure_venv
    exec 9>&-
  else
    ensure_venv
  fi
}
