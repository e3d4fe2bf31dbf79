#!/usr/bin/env bash
# Sets up .venv when needed, then runs the whole pipeline. ./run_mlops.sh --help lists the options.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/scripts/run_e2e_mlops_pipeline.sh" "$@"
