#!/usr/bin/env bash
# Makes a virtual environment with the Python package and what its tests and the cluster demo need in .cache/venv, where
# it is not complete.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$PWD/.cache/venv
wanted=$(python3 --version; cat python/requirements-test.txt python/pyproject.toml; echo "$PWD")
wanted=$(sha256sum <<<"$wanted" | cut -d ' ' -f 1)
if [ "$(cat "$venv/complete" 2>/dev/null)" != "$wanted" ] || ! "$venv/bin/python" -c 'import frameloom' 2>/dev/null; then
    rm -rf "$venv"
    mkdir -p .cache
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r python/requirements-test.txt
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e python
    echo "$wanted" >"$venv/complete"
fi
