#!/usr/bin/env bash
# Says what containers need and is not here, before anything is made: `needs.sh docker curl compose`.
set -euo pipefail
missing() { echo "$1 is missing: $2" >&2; exit 1; }
for what; do
    case $what in
        docker)
            command -v docker >/dev/null || missing docker "apt install docker.io docker-compose"
            docker info >/dev/null 2>&1 || missing "an answer of Docker" "start it, or join its group ('docker info' says more)"
            ;;
        compose)
            docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null ||
                missing "Docker's compose" "apt install docker-compose"
            ;;
        *) command -v "$what" >/dev/null || missing "$what" "apt install $what" ;;
    esac
done
