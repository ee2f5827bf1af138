#!/bin/sh
# nginx for files in /srv/www, on $PORT; /_ping is answered for health checks.
set -eu
. /usr/local/lib/berth/refuse.sh
port_or 8080
# It opens the place anew, which not every engine lets another user than root do.
log=off
if (: >>/dev/stdout) 2>/dev/null; then log=/dev/stdout; fi
cat >/run/app/nginx.conf <<EOF
worker_processes 2;
pid /run/app/nginx.pid;
error_log stderr warn;
events { worker_connections 512; }
http {
    include /etc/nginx/mime.types;
    access_log $log;
    server_tokens off;
    client_body_temp_path /run/app/body;
    proxy_temp_path /run/app/proxy;
    fastcgi_temp_path /run/app/fastcgi;
    uwsgi_temp_path /run/app/uwsgi;
    scgi_temp_path /run/app/scgi;
    server {
        listen $PORT;
        root /srv/www;
        location = /_ping { access_log off; return 200 "ok\n"; }
    }
}
EOF
exec nginx -e stderr -c /run/app/nginx.conf -g 'daemon off;' "$@"
