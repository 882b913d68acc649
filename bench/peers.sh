#!/usr/bin/env bash
# Makes the peers' Python environments: .cache/deface-venv, as `pip install deface onnxruntime` gives it, and
# .cache/bench-cv with OpenCV for what measures.
set -euo pipefail
venv() { # folder, what shows that it is complete, packages
    [ -e "$1/$2" ] && return
    rm -rf "$1"
    python3 -m venv "$1"
    "$1/bin/pip" install -q --disable-pip-version-check "${@:3}"
    touch "$1/$2"
}
mkdir -p .cache
venv .cache/deface-venv complete-1.5.0 deface==1.5.0 onnxruntime
venv .cache/bench-cv complete-1 opencv-python-headless==4.* numpy
