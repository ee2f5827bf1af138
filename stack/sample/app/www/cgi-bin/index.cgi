#!/bin/busybox sh
printf 'Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n\r\n'
printf 'Hello from instance %s\n' "$(/bin/busybox hostname)"
[ -n "$GREETING" ] && printf '%s\n' "$GREETING"
