#!/usr/bin/env bash
# Builds the images `frameloom` and `frameloom-redis`. Where this machine is of the same Debian as the image, the binary of
# `make build` goes into it; elsewhere, and with --source, the image is built from source (some 10 minutes on 2 cores).
# With --watching it builds `frameloom-prometheus` and `frameloom-flower` instead. BASE and RUST choose the images to begin
# from, USER_ID and GROUP_ID (10001) whom it runs as; without a registry base-image.sh makes both.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-}
binary=${CARGO_TARGET_DIR:-target}/release/frameloom
deploy/needs.sh docker

has() { docker image inspect "$1" >/dev/null 2>&1 || timeout 60 docker pull -q "$1" >/dev/null 2>&1; }
args=()
if [ -z "${BASE:-}" ]; then
    BASE=debian:12-slim
    if ! has "$BASE"; then
        echo "no registry gives $BASE: making a base here"
        deploy/base-image.sh
        BASE=frameloom-base:bookworm
        # This machine's way to its package mirror may be this machine's alone.
        args+=(--network host)
    fi
fi
release() { sh -c '. /etc/os-release && echo "$ID $VERSION_CODENAME"'; }
here=$(release)
there=$(docker run --rm --network none "$BASE" sh -c '. /etc/os-release && echo "$ID $VERSION_CODENAME"')
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
args+=(--build-arg "BASE=$BASE" --label "org.opencontainers.image.version=$version"
    --label "org.opencontainers.image.revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)"
    --label "org.opencontainers.image.base.name=$BASE")

# The image with a Rust toolchain, and, where this machine makes it, with this machine's way to the registries.
rust() {
    [ -z "${RUST:-}" ] || return 0
    RUST=rust:1-slim-bookworm
    if ! has "$RUST"; then
        echo "no registry gives $RUST: taking this machine's Rust"
        deploy/base-image.sh --rust
        RUST=frameloom-rust:bookworm
    fi
}

if [ "$what" = --watching ]; then
    rust
    for target in prometheus flower; do
        docker build -q "${args[@]}" --build-arg "BUILD=$RUST" -f deploy/watching.Dockerfile --target "$target" \
            -t "frameloom-$target:latest" . >/dev/null
    done
    exit
fi

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
if [ "$what" != --source ] && [ "$here" = "$there" ]; then
    make --no-print-directory build
    echo "frameloom: the image gets this machine's $binary ($here, as in the image)"
    mkdir "$context/deploy"
    cp LICENSE-APACHE LICENSE-MIT "$context/"
    cp deploy/Dockerfile deploy/redis.sh "$context/deploy/"
    deploy/stage.sh "$binary" "$context/prebuilt"
    target=prebuilt
else
    echo "frameloom: the image is built from source ($here here, $there in the image)"
    rust
    args+=(--build-arg "RUST=$RUST")
    git ls-files -z --cached --others --exclude-standard crates models deploy scripts Cargo.toml Cargo.lock 'LICENSE-*' |
        xargs -0 cp --parents -t "$context"
    target=frameloom
fi
[ -z "${USER_ID:-}" ] || args+=(--build-arg "USER_ID=$USER_ID")
[ -z "${GROUP_ID:-}" ] || args+=(--build-arg "GROUP_ID=$GROUP_ID")
build() { docker build -q "${args[@]}" -f "$context/deploy/Dockerfile" --target "$1" "${@:2}" "$context" >/dev/null; }
build redis -t frameloom-redis:latest
build "$target" -t frameloom:latest -t "frameloom:$version"
docker image inspect -f '{{.RepoTags}} {{.Size}}' frameloom:latest frameloom-redis:latest |
    awk '{ printf "made %s, %d MB\n", $1, $NF / 1e6 }' | tr -d '[]'
