#!/usr/bin/env bash
# Fetches the clip of a man talking (GPL: it is not kept in the repository) and measures; see bench.py. With `-` for the binary
# only the peers are measured.
set -euo pipefail
bin=$1 clips=$2
bench/peers.sh
if ! { [ -f "$clips/jwpIntro.mp4" ] && sha256sum "$clips/jwpIntro.mp4" | grep -q ^f0c7ef7c; }; then
    echo "fetching clips: psychopy"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    python3 -m pip download -q --no-deps --disable-pip-version-check -d "$scratch" psychopy==2026.2.5
    python3 -m zipfile -e "$scratch"/psychopy-*.whl "$scratch/unpacked"
    cp "$scratch/unpacked/psychopy/demos/coder/stimuli/jwpIntro.mp4" "$clips/jwpIntro.mp4.part"
    sha256sum "$clips/jwpIntro.mp4.part" | grep -q ^f0c7ef7c || { echo "jwpIntro.mp4 is not the file that was expected" >&2; exit 1; }
    mv "$clips/jwpIntro.mp4.part" "$clips/jwpIntro.mp4"
fi
ours=()
[ "$bin" = - ] || ours=(--bin "$bin" --page)
.cache/bench-cv/bin/python bench/detect/bench.py --deface .cache/deface-venv/bin/deface --clips "$clips" "${ours[@]}" "${@:3}"
