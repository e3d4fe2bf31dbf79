#!/usr/bin/env bash
# Trips -> features -> training -> serving -> predictions, by `taxi-assets run`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/set_up.sh"
set_up
exec "$VENV/bin/taxi-assets" run "$@"
