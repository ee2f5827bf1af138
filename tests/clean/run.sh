#!/usr/bin/env bash
# Proves that `git clone` + `bin/demo --exit` is all that a newcomer needs: in a fresh Debian 12 root made by
# debootstrap, with git and ca-certificates only. Shows the time cold and warm, checks that nothing stays
# running, mounted or configured, and removes the root. Needs root and debootstrap.
#
#   KEEP=1            keep the root, to look into it
#   CLEAN_ROOT=DIR    where to make it (default: a new directory under /var/tmp)
#   CLEAN_COMMAND=... what to run in the clone instead of "bin/demo --exit"
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=$(cd "$here/../.." && pwd)
say() { printf 'clean: %s\n' "$*" >&2; }

if [ "$(id -u)" != 0 ]; then
    say "a root file system is made and entered, which needs root: going on through sudo"
    exec sudo --preserve-env "${BASH_SOURCE[0]}" "$@"
fi
for program in debootstrap unshare chroot git; do
    command -v "$program" >/dev/null || {
        say "$program is missing: apt-get install debootstrap util-linux coreutils git"
        exit 1
    }
done

# In a mount namespace of its own, nothing that is mounted here outlives this script, whatever ends it.
if [ -z "${BERTH_CLEAN_INSIDE:-}" ]; then
    exec env BERTH_CLEAN_INSIDE=1 unshare --mount --propagation private "${BASH_SOURCE[0]}" "$@"
fi

root=${CLEAN_ROOT:-}
if [ -z "$root" ]; then
    root=$(mktemp -d /var/tmp/berth-clean-XXXXXX)
else
    mkdir -p "$root"
fi
source=$(mktemp -d /var/tmp/berth-clean-source-XXXXXX)

# Processes whose root directory is ours: also those that a failed demo left behind.
inside_pids() {
    local entry target
    for entry in /proc/[0-9]*; do
        target=$(readlink "$entry/root" 2>/dev/null) || continue
        case $target in "$root" | "$root"/*) printf '%s\n' "${entry#/proc/}" ;; esac
    done
}

# shellcheck disable=SC2317 # the traps call it
leave() {
    local status=$? pids
    trap - EXIT
    pids=$(inside_pids)
    if [ -n "$pids" ]; then
        say "ending what is left in the root: $(echo "$pids" | tr '\n' ' ')"
        # shellcheck disable=SC2086 # one argument for each pid
        kill -9 $pids || true
    fi
    rm -rf "$source"
    if [ "${KEEP:-}" = 1 ]; then
        say "kept: $root"
    else
        umount --recursive "$root" || status=1
        # Never through a mount that could not be removed: /dev and /proc of this machine would go with it.
        if grep -q " $root/" /proc/self/mounts; then
            say "$root still has mounts: it is left as it is"
            status=1
        else
            rm -rf --one-file-system "$root"
        fi
    fi
    exit "$status"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- A fresh root ------------------------------------------------------------------------------------------

# runc changes the root with pivot_root(2), which works on mount points only.
mount --bind "$root" "$root"
if [ ! -e "$root/bin/sh" ]; then
    say "debootstrap (bookworm, minbase, git and ca-certificates) into $root"
    began=$SECONDS
    log="$source/debootstrap.log"
    debootstrap --variant=minbase --include=git,ca-certificates bookworm "$root" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        exit 1
    }
    say "debootstrap: $((SECONDS - began)) s"
fi
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
# How this machine reaches the package registries: its resolver, its authorities, its apt and pip settings.
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -L /etc/hosts "$root/etc/hosts"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
for file in /etc/apt/apt.conf.d/*; do
    if grep -Eqs '^[[:space:]]*Acquire::(https?|ftp|Retries|Check-)' "$file"; then
        cp "$file" "$root/etc/apt/apt.conf.d/"
    fi
done
pass=()
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
    [ -z "${!name:-}" ] || pass+=("$name=${!name}")
done

# --- The newcomer's two lines ------------------------------------------------------------------------------

# A bare copy of HEAD, so that only what is committed is proved; git refuses to clone another user's checkout.
git -c safe.directory="*" clone -q --bare --no-hardlinks "$checkout" "$source/berth.git"
mkdir -p "$root/srv/source"
mount --bind "$source" "$root/srv/source"

enter() {
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb \
        ${pass[@]+"${pass[@]}"} \
        BERTH_PORT_PORTAL="${BERTH_PORT_PORTAL:-18000}" \
        BERTH_PORT_GATEWAY="${BERTH_PORT_GATEWAY:-18080}" \
        BERTH_PORT_REGISTRY="${BERTH_PORT_REGISTRY:-15443}" \
        BERTH_PORT_REDIS="${BERTH_PORT_REDIS:-18379}" \
        BERTH_PORT_ZOOKEEPER="${BERTH_PORT_ZOOKEEPER:-18181}" \
        BERTH_PORT_POSTGRES="${BERTH_PORT_POSTGRES:-18432}" \
        BERTH_PORT_GATEWAY_STATUS="${BERTH_PORT_GATEWAY_STATUS:-18404}" \
        chroot "$root" /bin/sh -c "$1"
}

# iproute2 makes /run/netns a mount at the first namespace, and leaves it so.
mounts_inside() {
    awk -v inside="$root/" 'index($2, inside) == 1 && $2 != inside "run/netns" { print $2 }' /proc/self/mounts | sort
}

mounts=$(mounts_inside)
failed=0
command=${CLEAN_COMMAND:-bin/demo --exit}

timed() {
    local label=$1 limit=$2 line=$3 began=$SECONDS status=0 took
    say "$label: $line"
    enter "$line" || status=$?
    took=$((SECONDS - began))
    say "$label: exit $status after $took s (limit $limit s)"
    if [ "$status" != 0 ] || [ "$took" -gt "$limit" ]; then
        failed=1
    fi
}

timed cold 600 "cd /srv && rm -rf berth && git clone -q /srv/source/berth.git berth && cd berth && $command"
timed warm 60 "cd /srv/berth && $command"

# --- Nothing stays -----------------------------------------------------------------------------------------

left=$(inside_pids)
if [ -n "$left" ]; then
    say "processes are left:"
    # shellcheck disable=SC2086 # one argument for each pid
    ps -o pid,args -p "$(echo $left | tr ' ' ',')" >&2 || true
    failed=1
fi
# By the environment's own name, since other work on this machine comes and goes meanwhile.
identity=$(enter "cd /srv/berth && .venv/bin/python -c \
    'from pathlib import Path; from stack.processes import stack_id; print(stack_id(Path(\"var/demo\")))'") || {
    say "no environment was made"
    identity=none failed=1
}
left=$(
    find /sys/class/net "$root/run/netns" /sys/fs/cgroup -maxdepth 2 -name "*$identity*" 2>/dev/null || true
    enter "iptables-save" 2>/dev/null | grep -- "$identity" || true
)
if [ -n "$left" ]; then
    say "of the network or the control groups is left: $left"
    failed=1
fi
extra=$(comm -13 <(echo "$mounts") <(mounts_inside))
if [ -n "$extra" ]; then
    say "mounts are left: $extra"
    failed=1
fi
if [ -e "$root/usr/sbin/policy-rc.d" ]; then
    say "the set-up left its policy-rc.d"
    failed=1
fi
if [ "$failed" = 0 ]; then
    say "proved: a clean machine needs nothing but git"
else
    say "FAILED"
fi
exit "$failed"
