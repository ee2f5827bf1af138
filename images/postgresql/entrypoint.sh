#!/bin/sh
# PostgreSQL with one superuser ("postgres") and SCRAM passwords. The first start makes the cluster in /data/pg.
set -eu
. /usr/local/lib/berth/refuse.sh
port_or 5432
password_needed POSTGRES_PASSWORD "${POSTGRES_PASSWORD:-}"
database=${POSTGRES_DB:-postgres}
name_checked POSTGRES_DB "$database"
umask 077
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    new=$PGDATA.new
    rm -rf "$new"
    printf '%s\n' "$POSTGRES_PASSWORD" >/data/.first
    initdb --pgdata="$new" --username=postgres --pwfile=/data/.first --encoding=UTF8 --locale=C.UTF-8 \
        --auth-local=scram-sha-256 --auth-host=scram-sha-256 >/dev/null
    rm -f /data/.first
    echo 'host all all all scram-sha-256' >>"$new/pg_hba.conf"
    if [ "$database" != postgres ]; then
        echo "CREATE DATABASE $database" | postgres --single -D "$new" postgres >/dev/null
    fi
    # Last: a start that was killed half way begins anew.
    mv "$new" "$PGDATA"
fi
unset POSTGRES_PASSWORD
exec postgres -D "$PGDATA" -p "$PORT" -c listen_addresses='*' -c unix_socket_directories=/run/app "$@"
