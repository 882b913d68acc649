#!/usr/bin/env bash
# Installs the Debian packages that building and the demo need, with `test` those of the tests, too, with `build` only those
# of building, and ONNX Runtime's library for the detectors; does nothing where they are there.
set -euo pipefail

packages=(
    build-essential pkg-config clang libclang-dev ca-certificates
    libavcodec-dev libavformat-dev libavfilter-dev libavutil-dev libavdevice-dev
    libswscale-dev libswresample-dev libopencv-dev python3 python3-pip
)
[ "${1:-}" = build ] || packages+=(ffmpeg fonts-dejavu-core python3-venv redis-server)
# The dashboard is tested in a browser, nodes on hosts of their own and with a clock that jumps, a store whose view is late,
# and Redis with TLS.
[ "${1:-}" != test ] || packages+=(chromium chromium-driver iproute2 bindfs fuse3 openssl libfaketime)

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing: ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

"$(dirname "$0")/onnxruntime.sh"
command -v cargo >/dev/null || {
    echo "no Rust toolchain: install one (rustup, Rust 1.92 or newer) and run this again" >&2
    exit 1
}
