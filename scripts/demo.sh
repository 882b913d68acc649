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

# The same through a server: one line a listener, then a client sends a clip and gets it back.
data=$(mktemp -d)
"$bin" serve --data "$data" --listen 127.0.0.1:0 --min-free 100M >"$data/listening" &
server=$!
trap 'kill $server 2>/dev/null || true; wait $server 2>/dev/null || true; rm -rf "$data"' EXIT
while ! grep -q listening "$data/listening"; do
    kill -0 $server
    sleep 0.1
done
url=$(sed -n 's/^listening on //p' "$data/listening")
echo
echo "frameloom serve --data $data    the dashboard: $url"
echo "frameloom submit $clips/vtest.avi -o $out/vtest.mp4 -f blur:sigma=3 --server $url"
"$bin" submit "$clips/vtest.avi" -o "$out/vtest.mp4" -f blur:sigma=3 --overwrite --server "$url"
echo
echo "look at:"
echo "  $out/bunny.mp4    the result, with its sound"
echo "  $out/before.png   a frame of the source"
echo "  $out/after.png    the same frame of the result"
echo "  $out/bunny.json   the metrics"
echo "  $out/vtest.mp4    what the server made"
echo "then try: $bin run --help    $bin filters    $bin plan $clips/vtest.avi"
if [ "${DEMO_SERVE:-}" = 1 ]; then
    echo "the dashboard stays up at $url until Ctrl-C"
    wait $server
fi
