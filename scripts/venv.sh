#!/usr/bin/env bash
# Makes a virtual environment with the Python package and what its tests and the cluster demo need in .cache/venv, where
# it is not complete. With the argument 'oldest': one with the oldest Celery that the package takes, in .cache/venv-oldest.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:-test}
requirements=python/requirements-$kind.txt
venv=$PWD/.cache/venv
[ "$kind" = test ] || venv+=-$kind
wanted=$(python3 --version; cat "$requirements" python/pyproject.toml; echo "$PWD")
wanted=$(sha256sum <<<"$wanted" | cut -d ' ' -f 1)
if [ "$(cat "$venv/complete" 2>/dev/null)" != "$wanted" ] || ! "$venv/bin/python" -c 'import frameloom' 2>/dev/null; then
    rm -rf "$venv"
    mkdir -p .cache
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e python
    echo "$wanted" >"$venv/complete"
fi
