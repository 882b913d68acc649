#!/bin/sh
# Redis as Frameloom wants it. The password comes from a file, and stands in no list of processes.
set -eu
password=$(cat "${REDIS_PASSWORD_FILE:-/run/secrets/redis_password}")
[ -n "$password" ] || { echo "the file of Redis' password is empty" >&2; exit 1; }
exec redis-server - <<EOF
bind * -::*
port 6379
dir /data
requirepass $password
maxmemory ${REDIS_MAXMEMORY:-256mb}
maxmemory-policy noeviction
appendonly yes
appendfsync everysec
save ""
EOF
