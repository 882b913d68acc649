#!/usr/bin/env bash
# Runs a pipeline over a real clip, and leaves the result, its metrics and two pictures to look at.
set -euo pipefail
bin=$1 clips=$2 out=demo-out
mkdir -p "$out"
echo
echo "frameloom run $clips/bigbuckbunny.mp4 -o $out/bunny.mp4 -f denoise -f edges:overlay=true -f overlay-time"
"$bin" run "$clips/bigbuckbunny.mp4" -o "$out/bunny.mp4" -f denoise -f edges:overlay=true -f overlay-time \
    --overwrite --metrics "$out/bunny.json"
ffmpeg -v error -y -ss 2 -i "$clips/bigbuckbunny.mp4" -frames:v 1 "$out/before.png"
ffmpeg -v error -y -ss 2 -i "$out/bunny.mp4" -frames:v 1 "$out/after.png"
echo
echo "look at:"
echo "  $out/bunny.mp4    the result, with its sound"
echo "  $out/before.png   a frame of the source"
echo "  $out/after.png    the same frame of the result"
echo "  $out/bunny.json   the metrics"
echo "then try: $bin run --help    $bin filters    $bin plan $clips/vtest.avi"
