# Process 1 gets no default signal handling from the kernel, so SIGTERM is passed on by hand.
/bin/busybox httpd -f -p "${PORT:-8080}" -h /app/www &
server=$!
trap 'kill "$server"' TERM INT
wait "$server"
wait "$server"
