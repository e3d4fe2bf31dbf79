#!/usr/bin/env bash
# Builds the Databricks CLI with Go, into .venv/bin or the folder that is named.
# Does nothing when it is there already. Without Go, or where Go cannot fetch it, it says so and
# fails: the tests that need the CLI then skip by name. The CLI's own licence allows its use with
# Databricks: nothing of it is part of this project.
set -euo pipefail
VERSION="v1.9.0"
GO_NEEDED="1.26"
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

fail() {
  echo "databricks CLI: $*" >&2
  exit 1
}

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

bin="${1:-$ROOT/.venv/bin}"
made_from="$bin/.databricks-cli"
if [ "$(cat "$made_from" 2>/dev/null)" = "$VERSION" ] && "$bin/databricks" --version >/dev/null 2>&1; then
  exit 0
fi
go="$(command -v go)" || fail "Go $GO_NEEDED or newer is needed to build it: none on PATH"
found="$("$go" env GOVERSION | sed 's/^go//')"
at_least "$GO_NEEDED" "$found" || fail "Go $GO_NEEDED or newer is needed to build it: found $found"
mkdir -p "$bin"
bin="$(cd "$bin" && pwd)"
echo "databricks CLI: building $VERSION, a few minutes the first time" >&2
# Built elsewhere first: a build that was stopped leaves nothing behind. In the module's own folder:
# `go install` would ask for every version there is of what it needs, which not every proxy tells.
work="$(mktemp -d)"
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
because() { tail -n 1 "$work/log" | sed 's/^[[:space:]]*//'; }
"$go" mod download -json "github.com/databricks/cli@$VERSION" >"$work/log" 2>&1 \
  || fail "it could not be fetched: $(because)"
cp -r "$(sed -n 's/.*"Dir": "\(.*\)".*/\1/p' "$work/log")" "$work/cli"
stamp="-s -w -X github.com/databricks/cli/internal/build.buildVersion=${VERSION#v}"
(cd "$work/cli" \
  && CGO_ENABLED=0 "$go" build -mod=readonly -ldflags "$stamp" -o "$work/databricks" .) \
  >"$work/log" 2>&1 || fail "it could not be built: $(because)"
install -m 755 "$work/databricks" "$bin/databricks"
echo "$VERSION" >"$made_from"
