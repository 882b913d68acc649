#!/usr/bin/env bash
# `cluster.sh up CLIP`: secrets, containers, and a real clip through them. `cluster.sh down`: containers away, data stays;
# `cluster.sh erase`: data, too. WORKERS (2) is how many nodes there are, PROFILES (none) what else: 'flower metrics'.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# As Compose does: what the environment says counts more than what the file says.
if [ -e "$here/.env" ]; then
    while IFS='=' read -r name value; do
        case $name in '' | \#*) ;; *) [ -n "${!name+set}" ] || export "$name=$value" ;; esac
    done <"$here/.env"
fi
export FRAMELOOM_SECRETS=${FRAMELOOM_SECRETS:-$here/secrets}
host=${FRAMELOOM_HOST:-localhost} port=${FRAMELOOM_PORT:-8443}

"$here/needs.sh" docker compose curl
if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
compose+=(-p "${COMPOSE_PROJECT_NAME:-frameloom}" -f "$here/compose.yaml")
for profile in ${PROFILES:-}; do compose+=(--profile "$profile"); done

# A request of whoever holds the token, which stands in no list of processes.
ask() {
    curl -sS --fail-with-body --cacert "$FRAMELOOM_SECRETS/ca.pem" --noproxy '*' \
        -H @<(echo "Authorization: Bearer $(cat "$FRAMELOOM_SECRETS/token")") "$@"
}

up() {
    local clip=$1 out=$here/../demo-out begun nodes
    "$here/secrets.sh" "$FRAMELOOM_SECRETS"
    "${compose[@]}" up -d --scale worker="${WORKERS:-2}"
    begun=$SECONDS
    until nodes=$(ask "https://$host:$port/v1/workers" 2>/dev/null |
        python3 -c 'import json, sys; print(sum(w["lives"] and bool(w["slots"]) for w in json.load(sys.stdin)))') 2>/dev/null &&
        [ "$nodes" -ge "${WORKERS:-2}" ]; do
        if [ $((SECONDS - begun)) -gt 120 ]; then
            "${compose[@]}" ps >&2
            "${compose[@]}" logs --tail 20 >&2
            echo "the cluster is not ready after two minutes; what it says stands above" >&2
            exit 1
        fi
        sleep 1
    done
    mkdir -p "$out"
    # Once by each protocol: on IPv4 the video goes through, on IPv6 the page is asked for.
    ask -4 -T "$clip" "https://$host:$port/v1/process?f=blur:sigma=2&f=edges:overlay=true" -o "$out/cluster.mp4" -D "$out/.headers"
    if [ -e /proc/net/if_inet6 ] && grep -q . /proc/net/if_inet6; then ask -6 "https://$host:$port/healthz" >/dev/null; fi
    local frames wanted
    frames() {
        ffprobe -v error -count_frames -select_streams v:0 -show_entries stream=nb_read_frames -of csv=p=0 "$1"
    }
    frames=$(frames "$out/cluster.mp4") wanted=$(frames "$clip")
    echo "frames:  $frames of $wanted, by $nodes nodes ($(sed -n 's/^frameloom-summary: //Ip' "$out/.headers" | tr -d '\r'))"
    rm "$out/.headers"
    [ "$frames" = "$wanted" ]
    echo "video:   $out/cluster.mp4"
    echo "page:    https://$host:$port (its certificate: $FRAMELOOM_SECRETS/ca.pem)"
    echo "token:   $FRAMELOOM_SECRETS/token"
    case " ${PROFILES:-} " in *" flower "*) echo "flower:  http://localhost:5555 (frameloom, $FRAMELOOM_SECRETS/flower-password)" ;; esac
    case " ${PROFILES:-} " in
        *" metrics "*)
            echo "metrics: http://localhost:9090, http://localhost:3000 (admin, $FRAMELOOM_SECRETS/grafana-password)"
            ;;
    esac
}

case ${1:-} in
    up) up "$2" ;;
    # All profiles: what was started with one goes, too.
    down) "${compose[@]}" --profile flower --profile metrics down ;;
    erase) "${compose[@]}" --profile flower --profile metrics down --volumes ;;
    *)
        echo "cluster.sh up CLIP | down | erase" >&2
        exit 2
        ;;
esac
