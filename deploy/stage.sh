#!/usr/bin/env bash
# Lays out what a Frameloom installation beside Debian's packages is: the binary without its line tables, ONNX Runtime's
# library, notices, and the list of what is in it. `stage.sh BINARY DIR`.
set -euo pipefail
binary=$(realpath "$1") to=$2
cd "$(dirname "$0")/.."
runtime=${ONNXRUNTIME_DIR:-/usr/local/lib/frameloom}
install -d "$to/bin" "$to/lib/frameloom" "$to/share/doc/frameloom"
strip -o "$to/bin/frameloom" "$binary"
chmod 755 "$to/bin/frameloom"
install -m 755 "$runtime"/libonnxruntime.so.* "$to/lib/frameloom/"
install -m 644 "$runtime"/onnxruntime-* LICENSE-APACHE LICENSE-MIT models/README.md "$to/share/doc/frameloom/"
deploy/sbom.py >"$to/share/doc/frameloom/sbom.cdx.json"
