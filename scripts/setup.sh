#!/usr/bin/env bash
# Installs the Debian packages that building and the demo need, with `test` those of the tests, too, and ONNX Runtime's
# library for the detectors; does nothing where they are there.
set -euo pipefail

packages=(
    build-essential pkg-config clang libclang-dev ca-certificates
    ffmpeg libavcodec-dev libavformat-dev libavfilter-dev libavutil-dev libavdevice-dev
    libswscale-dev libswresample-dev libopencv-dev
    fonts-dejavu-core python3 python3-pip python3-venv redis-server
)
# The dashboard is tested in a browser, nodes on hosts of their own, a store whose view is late, and Redis with TLS.
[ "${1:-}" != test ] || packages+=(chromium chromium-driver iproute2 bindfs fuse3 openssl)

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

# ONNX Runtime's library, out of its Python wheel: the one for Python 3.11, whichever Python is here.
library=libonnxruntime.so.1.32.0 place=/usr/local/lib/frameloom
case $(uname -m) in
    x86_64) sha256=6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f ;;
    aarch64) sha256=49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a ;;
    *) sha256= ;;
esac
if [ ! -e "$place/$library" ] && [ -z "$sha256" ]; then
    echo "no ONNX Runtime is known for $(uname -m): detectors need FRAMELOOM_ONNXRUNTIME to name its library" >&2
elif [ ! -e "$place/$library" ]; then
    echo "installing: ONNX Runtime into $place"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    python3 -m pip download -q --no-deps --disable-pip-version-check -d "$scratch" --only-binary :all: \
        --implementation cp --python-version 3.11 --abi cp311 --platform "manylinux_2_28_$(uname -m)" onnxruntime==1.32.0
    python3 -m zipfile -e "$scratch"/*.whl "$scratch"
    from=$scratch/onnxruntime
    echo "$sha256  $from/capi/$library" | sha256sum --check --quiet || {
        echo "$library is not the file that was expected" >&2
        exit 1
    }
    "${as_root[@]}" install -d "$place"
    for notice in LICENSE ThirdPartyNotices.txt; do
        "${as_root[@]}" install -m 644 "$from/$notice" "$place/onnxruntime-$notice"
    done
    # By a name of its own first: whoever looks for the library meets all of it.
    "${as_root[@]}" install -m 755 "$from/capi/$library" "$place/.$library"
    "${as_root[@]}" mv "$place/.$library" "$place/$library"
fi
command -v cargo >/dev/null || {
    echo "no Rust toolchain: install one (rustup, Rust 1.92 or newer) and run this again" >&2
    exit 1
}
