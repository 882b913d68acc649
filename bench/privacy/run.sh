#!/usr/bin/env bash
# Makes the set of known faces and measures what deface and Frameloom hide of them; see bench.py. With `-` for the binary only
# deface is measured.
set -euo pipefail
bin=$1 clips=$2
set=.cache/privacy out=.cache/privacy-out
bench/peers.sh
bench/privacy/fetch.sh .cache/portraits "$clips"
python=.cache/bench-cv/bin/python
$python bench/privacy/make.py --portraits .cache/portraits --clips "$clips" --to $set
ours=()
[ "$bin" = - ] || ours=(--bin "$bin")
$python bench/privacy/bench.py --set $set --out $out --deface .cache/deface-venv/bin/deface --page "${ours[@]}" "${@:3}"
[ "$bin" = - ] || exec $python bench/privacy/motion.py --bin "$bin" --clips "$clips" --out $out/motion --page
