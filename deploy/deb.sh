#!/usr/bin/env bash
# Makes target/debian/frameloom_VERSION_ARCH.deb of the binary that `make build` made; installs cargo-deb where it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
binary=$target/release/frameloom parts=$target/release/deb
command -v cargo-deb >/dev/null || cargo install --locked cargo-deb@^3
mkdir -p "$parts"
strip -o "$parts/frameloom" "$binary"
chmod 755 "$parts/frameloom"
"$binary" man | gzip -9n >"$parts/frameloom.1.gz"
"$binary" completions bash >"$parts/frameloom.bash"
"$binary" completions zsh >"$parts/_frameloom"
"$binary" completions fish >"$parts/frameloom.fish"
deploy/sbom.py >"$parts/sbom.cdx.json"
cargo deb --no-build --locked -p frameloom
