#!/usr/bin/env bash
# Installs the Debian packages that building and the demo need, with `test` those of the tests, too; does nothing where
# they are there.
set -euo pipefail

packages=(
    build-essential pkg-config clang libclang-dev ca-certificates
    ffmpeg libavcodec-dev libavformat-dev libavfilter-dev libavutil-dev libavdevice-dev
    libswscale-dev libswresample-dev libopencv-dev
    fonts-dejavu-core python3 python3-pip python3-venv redis-server
)
# The dashboard is tested in a browser.
[ "${1:-}" != test ] || packages+=(chromium chromium-driver)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing: ${missing[*]}"
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
command -v cargo >/dev/null || {
    echo "no Rust toolchain: install one (rustup, Rust 1.92 or newer) and run this again" >&2
    exit 1
}
