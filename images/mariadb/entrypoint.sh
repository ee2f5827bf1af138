#!/bin/sh
# MariaDB with a database and a user for it. Nobody signs in as root over the network. The first start makes /data/db.
set -eu
. /usr/local/lib/berth/refuse.sh
port_or 3306
password_needed MARIADB_PASSWORD "${MARIADB_PASSWORD:-}"
database=${MARIADB_DATABASE:-app}
name_checked MARIADB_DATABASE "$database"
umask 077
if [ ! -d /data/db ]; then
    rm -rf /data/new
    # --force: it would look for a host name that need not be there.
    mariadb-install-db --no-defaults --datadir=/data/new --force --auth-root-authentication-method=socket --auth-root-socket-user=app \
        --skip-test-db --skip-log-bin >/dev/null
    mv /data/new /data/db
fi
# Read at each start, so a new password holds after it.
cat >/data/.init.sql <<EOF
CREATE DATABASE IF NOT EXISTS \`$database\` CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS 'app'@'%' IDENTIFIED BY '$MARIADB_PASSWORD';
ALTER USER 'app'@'%' IDENTIFIED BY '$MARIADB_PASSWORD';
GRANT ALL ON \`$database\`.* TO 'app'@'%';
EOF
unset MARIADB_PASSWORD
exec mariadbd --no-defaults --datadir=/data/db --socket=/run/app/mariadb.sock --pid-file=/run/app/mariadb.pid \
    --port="$PORT" --bind-address=0.0.0.0 --skip-name-resolve --init-file=/data/.init.sql "$@"
