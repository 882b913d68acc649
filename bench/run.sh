#!/usr/bin/env bash
# Sets up the peers (a Python environment, Redis) and runs the benchmark; see bench.py, or the script that BENCH names.
set -euo pipefail
bin=$1 clips=$2
venv=.cache/bench-venv
command -v redis-server >/dev/null || {
    as_root=(); [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        redis-server python3-venv >/dev/null
}
if [ ! -x $venv/bin/celery ]; then
    python3 -m venv $venv
    $venv/bin/pip install -q --disable-pip-version-check 'celery[redis]==5.5.*' packaging opencv-python-headless
fi
exec $venv/bin/python "bench/${BENCH:-bench.py}" --bin "$bin" --clips "$clips" --venv "$venv" "${@:3}"
