#!/bin/sh
# Process 1 of a Docker host: runs in network, mount and PID namespaces of its own (stack/hosts.py starts it).
# usage: dockerd-init.sh ETC_DOCKER RESOLV_CONF dockerd...
set -eu
etc_docker=$1 resolv_conf=$2
shift 2
# The registry's authority must be in /etc/docker/certs.d: this puts ours there for this dockerd alone.
mkdir -p /etc/docker /run/docker /run/containerd
mount --bind "$etc_docker" /etc/docker
if [ "$resolv_conf" != - ]; then
    mount --bind "$resolv_conf" "$(readlink -f /etc/resolv.conf)"
fi
# What dockerd and containerd keep of running containers, their sockets and pid files: it goes with the
# namespace, as at a reboot. A pid file that stays would stop the next dockerd, since a namespace counts its
# pids from 1 again. The paths are short: a Unix socket's may have 107 bytes.
mount -t tmpfs -o mode=0711 berth /run/docker
mount -t tmpfs -o mode=0711 berth /run/containerd
# docker-init (tini) hands signals on and reaps the shims; when dockerd ends it ends, and the kernel with it
# ends every process that is left in the namespace.
exec docker-init -- "$@"
