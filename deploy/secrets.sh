#!/usr/bin/env bash
# Makes what nobody else may know: tokens, passwords, and a certificate for FRAMELOOM_HOST (localhost). What is there already
# stays. `secrets.sh [DIR]`. Nobody but you can enter DIR. Containers run as other users and get single files of it, so those
# files can be read by whoever holds them; your own token is for you alone.
set -euo pipefail
dir=${1:-$(dirname "$0")/secrets} host=${FRAMELOOM_HOST:-localhost}
umask 077
mkdir -p "$dir"
chmod 700 "$dir"
cd "$dir"

# No line's end behind it: Kubernetes hands files on as they are.
secret() { head -c 30 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n'; }
make_file() { # NAME MODE, content from standard input; by a rename, so that it is never half there
    cat >".$1"
    chmod "$2" ".$1"
    mv ".$1" "$1"
}
for name in redis-password prometheus-token grafana-password flower-password; do
    [ -e "$name" ] || secret | make_file "$name" 644
done
[ -e token ] || secret | make_file token 600
[ -e tokens ] || printf 'operator:%s:admin\nprometheus:%s:metrics\n' "$(cat token)" "$(cat prometheus-token)" | make_file tokens 644
if [ ! -e cert.pem ]; then
    command -v openssl >/dev/null || { echo "no openssl to make a certificate with: install it (apt install openssl)" >&2; exit 1; }
    case $host in *[!0-9.]*) name=DNS:$host ;; *) name=IP:$host ;; esac
    openssl req -x509 -newkey rsa:2048 -nodes -keyout .key -out .cert -days 825 -subj "/CN=$host" \
        -addext "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1,$name" -addext basicConstraints=critical,CA:FALSE 2>/dev/null
    make_file key.pem 644 <.key
    [ -e ca.pem ] || make_file ca.pem 644 <.cert
    make_file cert.pem 644 <.cert
    rm .key .cert
fi
