#!/usr/bin/env bash
# Checks the Python package: lints, types, tests; and the tests that meet Celery most with the oldest Celery, too, unless
# arguments choose tests.
# FRAMELOOM_BIN names the binary that the client is tested against [default: target/release/frameloom].
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/venv.sh
venv=$PWD/.cache/venv
export FRAMELOOM_BIN=${FRAMELOOM_BIN:-$PWD/target/release/frameloom}
(
    cd python
    code=(. ../examples/python-opencv)
    "$venv/bin/ruff" check "${code[@]}"
    "$venv/bin/ruff" format --check "${code[@]}"
    "$venv/bin/mypy"
    "$venv/bin/pytest" "$@"
)
if [ $# = 0 ]; then
    scripts/venv.sh oldest
    cd python
    "$venv-oldest/bin/pytest" tests/test_worker.py tests/test_worker_life.py \
        tests/test_cluster.py::test_every_frame_goes_to_python_and_comes_back_in_order \
        tests/test_frames.py::test_a_celery_client_gets_its_frames_filtered
fi
