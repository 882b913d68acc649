#!/usr/bin/env bash
# Pulls plugs of a cluster of containers of its own while a real clip goes through it, one fault a job, and requires each
# time that the output has the bytes of `frameloom run`. `cluster-test.sh CLIP [FAULT…]`; SEED (1) chooses which node it is
# and when. All that it starts goes at its end.
set -euo pipefail
clip=$(realpath "$1")
shift
here=$(cd "$(dirname "$0")" && pwd)
port=${FRAMELOOM_PORT:-18443} RANDOM=${SEED:-1}
export FRAMELOOM_PORT=$port WORKER_SLOTS=1 FRAMELOOM_SECRETS
place=$(mktemp -d)
FRAMELOOM_SECRETS=$place/secrets
url=https://localhost:$port project=frameloom-test-$$
if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
compose+=(-p "$project" -f "$here/compose.yaml")
filters=(-f denoise -f edges:overlay=true --segment 1)

finish() {
    local code=$?
    if [ "$code" != 0 ]; then
        "${compose[@]}" ps -a >&2 || "${compose[@]}" ps >&2 || true
        "${compose[@]}" logs --tail 15 >&2 || true
        [ ! -s "$place/out/log" ] || cat "$place/out/log" >&2
    fi
    docker rm -f -v "$project-client" >/dev/null 2>&1 || true
    "${compose[@]}" down --volumes --timeout 1 >/dev/null 2>&1 || true
    # What containers wrote belongs to their user.
    docker run --rm --network none --user 0 -v "$place:/place" --entrypoint rm "${FRAMELOOM_IMAGE:-frameloom:latest}" \
        -rf /place/out /place/in >/dev/null 2>&1 || true
    rm -rf "$place"
    exit "$code"
}
trap finish EXIT

mkdir -m 777 "$place/out" "$place/in"
cp "$clip" "$place/in/clip"
chmod 644 "$place/in/clip"
"$here/secrets.sh" "$FRAMELOOM_SECRETS"
# The client is a container, too: it needs no Frameloom on this machine. It runs as whoever may read the token.
client() { # DOCKER-ARGUMENTS -- FRAMELOOM-ARGUMENTS
    local more=()
    while [ "$1" != -- ]; do
        more+=("$1")
        shift
    done
    shift
    docker run --read-only --cap-drop ALL --security-opt no-new-privileges --user "$(id -u):$(id -g)" --network host \
        -v "$place:$place" "${more[@]}" "${FRAMELOOM_IMAGE:-frameloom:latest}" "$@"
}
ask() {
    curl -sS --fail --max-time 5 --cacert "$FRAMELOOM_SECRETS/ca.pem" --noproxy '*' \
        -H @<(echo "Authorization: Bearer $(cat "$FRAMELOOM_SECRETS/token")") "$@"
}
look() { python3 -c "import json, sys; v = json.load(sys.stdin); print($1)"; }
until_so() { # SECONDS WORDS COMMAND…
    local begun=$SECONDS most=$1 words=$2
    shift 2
    until "$@" 2>/dev/null; do
        [ $((SECONDS - begun)) -lt "$most" ] || { echo "not within $most s: $words" >&2; return 1; }
        sleep 0.2
    done
}
ids() { "${compose[@]}" ps -q "$1"; }
one() { ids "$1" | sed -n "$((RANDOM % $(ids "$1" | wc -l) + 1))p"; }
nodes_are() { [ "$(ask "$url/v1/workers" | look 'sum(w["lives"] and bool(w["slots"]) for w in v)')" = "$1" ]; }
# How far the job at work is, in percent; the ones before it are over.
percent() { ask "$url/v1/jobs?state=running&limit=1" | look 'int(v["jobs"][0]["progress"]["percent"] or 0)'; }
is_at() { [ "$(percent)" -ge "$1" ]; }

# Each fault is done and mended; what it leaves is the cluster as it was.
fault_none() { :; }
fault_worker_killed() { local id; id=$(one worker); docker kill -s KILL "$id"; sleep 12; docker start "$id"; }
fault_worker_stopped() { local id; id=$(one worker); docker stop -t 75 "$id"; docker start "$id"; }
fault_worker_frozen() { local id; id=$(one worker); docker pause "$id"; sleep 15; docker unpause "$id"; }
fault_worker_cut_off() {
    local id network=${project}_inside
    id=$(one worker)
    docker network disconnect "$network" "$id"
    sleep 15
    docker network connect "$network" "$id"
}
fault_server_killed() { local id; id=$(ids server); docker kill -s KILL "$id"; sleep 1; docker start "$id"; }
fault_server_stopped() { local id; id=$(ids server); docker stop -t 45 "$id"; docker start "$id"; }
fault_redis_killed() { local id; id=$(ids redis); docker kill -s KILL "$id"; sleep 3; docker start "$id"; }
fault_redis_frozen() { local id; id=$(ids redis); docker pause "$id"; sleep 8; docker unpause "$id"; }
fault_redis_emptied() {
    docker exec "$(ids redis)" sh -c 'REDISCLI_AUTH=$(cat /run/secrets/redis_password) redis-cli FLUSHALL'
}
fault_all_killed() {
    local all
    mapfile -t all < <(ids redis; ids server; ids worker)
    docker kill -s KILL "${all[@]}"
    docker start "${all[@]}"
}
fault_scaled() {
    "${compose[@]}" up -d --no-recreate --scale worker=5
    until_so 60 "five nodes" nodes_are 5
    "${compose[@]}" up -d --no-recreate --scale worker=3
}
faults=("$@")
[ ${#faults[@]} -gt 0 ] || mapfile -t faults < <(declare -F | sed -n 's/^declare -f fault_//p')

client --rm -- run "$place/in/clip" -o "$place/out/expected.mp4" "${filters[@]}" 2>"$place/out/log"
echo "expected: $(sha256sum <"$place/out/expected.mp4" | cut -c1-16), $(stat -c %s "$place/out/expected.mp4") bytes, by frameloom run"
"${compose[@]}" up -d --scale worker=3 2>"$place/out/log"
until_so 120 "three nodes work for the server" nodes_are 3

format='%-16s %8s %8s %8s  %s\n'
# shellcheck disable=SC2059 # the table's format
row() { printf "$format" "$@"; }
row fault at seconds again output
differ=0
for fault in "${faults[@]}"; do
    begun=$SECONDS
    client -d --name "$project-client" -- submit "$place/in/clip" -o "$place/out/got.mp4" --overwrite "${filters[@]}" \
        --server "$url" --token "$FRAMELOOM_SECRETS/token" --cacert "$FRAMELOOM_SECRETS/ca.pem" >/dev/null
    until_so 120 "the job is at work ($fault)" is_at $((5 + RANDOM % 30))
    at=$(percent)
    [ "$at" -lt 90 ] || { echo "$fault: the job is over too soon, at $at %; give a longer clip" >&2; exit 1; }
    "fault_$fault" >"$place/out/log" 2>&1
    code=$(timeout 300 docker wait "$project-client") || { echo "$fault: the job does not end" >&2; exit 1; }
    docker logs "$project-client" >"$place/out/log" 2>&1
    docker rm -v "$project-client" >/dev/null
    [ "$code" = 0 ] || { echo "$fault: frameloom submit ends with $code" >&2; exit 1; }
    until_so 60 "all is as before ($fault)" nodes_are 3
    # Attempts beside the one that each task needs.
    log=$(ask "$url/v1/jobs/$(ask "$url/v1/jobs?limit=1" | look 'v["jobs"][0]["id"]')/logs")
    again=$(($(grep -c ' sent, ' <<<"$log") - $(grep -c ' accepted, ' <<<"$log")))
    if grep ' failed, ' <<<"$log" >&2; then echo "$fault: a fault of a plug was counted as the task's" >&2; exit 1; fi
    verdict="same bytes"
    cmp -s "$place/out/got.mp4" "$place/out/expected.mp4" || { verdict=DIFFERS differ=1; }
    row "$fault" "$at %" $((SECONDS - begun)) "$again" "$verdict"
done
[ "$differ" = 0 ]
