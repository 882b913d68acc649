#!/usr/bin/env bash
# A server, two worker nodes and a Celery worker with Python functions around a Redis of their own; a real clip goes through
# all of them, one node is killed on the way, and the result is shown. Everything started here ends with it.
set -euo pipefail
bin=$(realpath "$1") clips=$(realpath "$2")
cd "$(dirname "$0")/.."
venv=$PWD/.cache/venv out=$PWD/demo-out
mkdir -p "$out"
place=$(mktemp -d)
started=()
finish() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$place"
}
trap finish EXIT

start() { # NAME COMMAND…
    local name=$1
    shift
    "$@" >"$place/$name.log" 2>&1 &
    started+=($!)
}
until_says() { # NAME WORDS
    for _ in $(seq 200); do
        grep -q "$2" "$place/$1.log" && return
        sleep 0.1
    done
    echo "$1 does not come up:" >&2
    cat "$place/$1.log" >&2
    exit 1
}

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
broker=redis://127.0.0.1:$port/0
start redis redis-server --port "$port" --bind 127.0.0.1 --save "" --dir "$place"
until_says redis 'eady to accept'
start server "$bin" serve --broker "$broker" --data "$place/data" --no-local-slots --listen 127.0.0.1:0 \
    --allow-task 'mytasks.*@python'
until_says server listening
url=$(sed -n 's/^listening on //p' "$place/server.log" | head -1)
start node-1 "$bin" worker --broker "$broker" --data "$place/data" --name node-1 --slots 1
doomed=$!
start node-2 "$bin" worker --broker "$broker" --data "$place/data" --name node-2 --slots 1
cd examples/python-opencv
FRAMELOOM_DATA=$place/data BROKER=$broker start python "$venv/bin/celery" -A tasks worker --queues python --concurrency 2
cd ../..
until_says python 'python@\|ready\|\.> python'

echo "server:   $url (the page)"
echo "pipeline: blur, then mytasks.sketch (OpenCV in Python), a frame a task; node-1 is killed on the way"
"$bin" submit "$clips/vtest.avi" -o "$out/cluster.mp4" --overwrite --server "$url" \
    -f blur:sigma=1 -f celery:task=mytasks.sketch:queue=python &
submitting=$!
sleep 3
kill -9 "$doomed"
wait "$submitting"
curl -s "$url/v1/workers" | python3 -c '
import json, sys
for w in json.load(sys.stdin):
    state = "lives" if w["lives"] else "silent"
    print("node     ", w["name"], state, w["engine"])'
ffmpeg -v error -y -ss 20 -i "$out/cluster.mp4" -frames:v 1 "$out/cluster.png"
frames=$(ffprobe -v error -count_frames -select_streams v:0 -show_entries stream=nb_read_frames -of csv=p=0 "$out/cluster.mp4")
echo "frames:   $frames of 795"
[ "$frames" = 795 ]
echo "look at:  $out/cluster.mp4, $out/cluster.png"
