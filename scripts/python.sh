#!/usr/bin/env bash
# Checks the Python package: lints, types, tests.
# FRAMELOOM_BIN names the binary that the client is tested against [default: target/release/frameloom].
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/venv.sh
venv=$PWD/.cache/venv
export FRAMELOOM_BIN=${FRAMELOOM_BIN:-$PWD/target/release/frameloom}
cd python
code=(. ../examples/python-opencv)
"$venv/bin/ruff" check "${code[@]}"
"$venv/bin/ruff" format --check "${code[@]}"
"$venv/bin/mypy"
"$venv/bin/pytest" "$@"
