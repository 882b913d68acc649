#!/usr/bin/env bash
# Installs ONNX Runtime's library, which detectors (faces, objects) need and Debian does not have, into
# /usr/local/lib/frameloom; does nothing where it is there. It needs python3-pip.
set -euo pipefail

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

# Out of its Python wheel: the one for Python 3.11, whichever Python is here.
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
