#!/usr/bin/env bash
# Makes the images that others begin from, where no image registry is at hand: frameloom-base, a small Debian by
# debootstrap, and with --rust also frameloom-rust, the same with this machine's Rust toolchain, for the build from source.
# Packages come from where this machine's apt gets them. `make image` runs this by itself where it is needed.
set -euo pipefail
suite=${SUITE:-bookworm}
base=frameloom-base:$suite rust=frameloom-rust:$suite

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
has() { docker image inspect "$1" >/dev/null 2>&1; }

# Debian's own sources of this machine's apt, a line each; none where it has none of this release.
sources() {
    # shellcheck disable=SC2016 # apt's variables, not the shell's
    apt-get indextargets --format '$(ORIGIN)|$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' |
        awk -F'|' -v suite="$suite" '$1 == "Debian" && $2 == "Packages" && index($4, suite) == 1 { print $3, $4, $5 }'
}

make_base() {
    if ! command -v debootstrap >/dev/null; then
        "${as_root[@]}" apt-get update -qq
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
    fi
    scratch=$(mktemp -d)
    trap '"${as_root[@]}" rm -rf "$scratch"' EXIT
    local root=$scratch/root mirror
    mirror=$(sources | awk -v suite="$suite" '$2 == suite { print $1; exit }')
    # Without a mirror debootstrap takes Debian's.
    # shellcheck disable=SC2086 # an empty mirror is no argument
    "${as_root[@]}" debootstrap --variant=minbase "$suite" "$root" $mirror >"$scratch/log" 2>&1 || {
        tail -20 "$scratch/log" >&2
        echo "debootstrap failed; its last lines stand above" >&2
        exit 1
    }
    if [ -n "$mirror" ]; then
        sources | sed -E 's/^/deb /; s,://[^/ ]*@,://,' | "${as_root[@]}" tee "$root/etc/apt/sources.list" >/dev/null
    fi
    # Proxies and the like, but no passwords, neither from auth.conf nor in addresses: what lies in an image, everybody reads who
    # has it. Where a proxy wants one, HTTP_PROXY as a build argument gives it.
    apt-config dump | { grep -E '^Acquire::(http|https|Check-|Retries)' || true; } | { grep -v '://[^/ ]*@' || true; } |
        "${as_root[@]}" tee "$root/etc/apt/apt.conf.d/90host" >/dev/null
    # As in Debian's slim images: no manuals, no translations, no lists of packages.
    "${as_root[@]}" tee "$root/etc/dpkg/dpkg.cfg.d/slim" >/dev/null <<'EOF'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
EOF
    "${as_root[@]}" find "$root/usr/share/doc" -type f ! -name copyright -delete
    # shellcheck disable=SC2016 # the inner shell's
    "${as_root[@]}" sh -c 'cd "$1" && rm -rf usr/share/man/* usr/share/info/* usr/share/locale/* var/lib/apt/lists/* \
        var/cache/apt/* var/cache/debconf/* var/log/* root/.cache' sh "$root"
    "${as_root[@]}" tar -C "$root" --numeric-owner -c . | docker import --change 'CMD ["bash"]' - "$base" >/dev/null
    echo "made $base by debootstrap"
}

make_rust() {
    local sysroot context
    sysroot=$(rustc --print sysroot)
    context=$(mktemp -d)
    # What this machine trusts and how its cargo and pip reach their registries: for building alone, not in any image
    # that is run.
    mkdir -p "$context/host/cargo"
    cp /etc/ssl/certs/ca-certificates.crt "$context/host/"
    [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$context/host/"
    local config=${CARGO_HOME:-$HOME/.cargo}/config.toml
    [ ! -e "$config" ] || cp "$config" "$context/host/cargo/"
    cat >"$context/Dockerfile" <<EOF
FROM $base
COPY host/ /opt/host/
COPY toolchain/ /usr/local/
ENV CARGO_HOME=/opt/host/cargo SSL_CERT_FILE=/opt/host/ca-certificates.crt PIP_CERT=/opt/host/ca-certificates.crt
EOF
    tar -c --numeric-owner -C "$context" Dockerfile host \
        -C "$(dirname "$sysroot")" --exclude share/doc --exclude share/man --transform "s,^$(basename "$sysroot"),toolchain," \
        "$(basename "$sysroot")" | docker build -q -t "$rust" - >/dev/null
    rm -rf "$context"
    echo "made $rust: $(rustc --version)"
}

has "$base" || make_base
[ "${1:-}" != --rust ] || has "$rust" || make_rust
