#!/bin/sh
# Redis with a password, in memory and in /data (which lives as long as the container, unless a volume is put there).
set -eu
. /usr/local/lib/berth/refuse.sh
port_or 6379
password_needed REDIS_PASSWORD "${REDIS_PASSWORD:-}"
umask 077
# By a file: a password on the command line can be read by every process.
conf=/data/.redis.conf
cat >"$conf" <<EOF
port $PORT
dir /data
requirepass $REDIS_PASSWORD
daemonize no
logfile ""
protected-mode yes
EOF
unset REDIS_PASSWORD
exec redis-server "$conf" "$@"
