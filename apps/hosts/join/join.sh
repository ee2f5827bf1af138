#!/bin/sh
# Makes this machine a host of the Berth platform at @PORTAL_URL@. Run it as root:
#
#   curl -fsSL @PORTAL_URL@/join.sh | BERTH_JOIN_TOKEN=brj_... sh
#   curl -fsSL @PORTAL_URL@/join.sh | BERTH_JOIN_TOKEN=brj_... sh -s -- --address 10.0.0.11 --label zone=a
#
#   --address IP    where the platform reaches this machine; else the address by which it reaches the portal
#   --name NAME     else the machine's own
#   --label K=V     for rules of placement; may be given more than once
#   --ca FILE       certificate of the authority that signed the portal's own; else those that the system knows
#   --no-service    write the files and print what dockerd and the reporter need; change no service
#
# It installs Docker's engine where there is none, makes a key that never leaves this machine, has the platform sign a
# certificate for it, makes dockerd listen on port 2376 for clients of the platform only (mutual TLS), and starts
# berth-host, which reports what the machine has left. Everything is checked before the token is used up.
set -eu

PORTAL='@PORTAL_URL@'

say() { printf 'join: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# Usage: matches TEXT PATTERN: the whole text, which must be one line.
matches() {
    case $1 in *"
"*) return 1 ;; esac
    printf '%s\n' "$1" | LC_ALL=C grep -Eqx -e "$2"
}

# Usage: member FILE NAME: a text of a flat JSON object, with its escaped line ends. Nothing if it is not there.
member() { tr -d '\n' <"$1" | sed -n "s/.*\"$2\": *\"\([^\"]*\)\".*/\1/p"; }

# --- What is asked for ----------------------------------------------------------------------------------------

arguments() {
    address='' name='' labels='' portal_ca='' service=yes
    while [ $# -gt 0 ]; do
        case $1 in
        --no-service) service=no ;;
        --address | --name | --label | --ca)
            [ $# -ge 2 ] || die "$1 needs a value"
            case $1 in
            --address) address=$2 ;;
            --name) name=$2 ;;
            --label) label_add "$2" ;;
            --ca) portal_ca=$2 ;;
            esac
            shift
            ;;
        *) die "unknown option $1; there are --address --name --label --ca --no-service" ;;
        esac
        shift
    done
    [ -z "$portal_ca" ] || [ -r "$portal_ca" ] || die "--ca: cannot read $portal_ca"
    [ -z "$portal_ca" ] || matches "$portal_ca" '[A-Za-z0-9/._-]+' || die "--ca: only letters, digits and / . _ - in its path"
}

label_add() {
    matches "$1" '[a-z][a-z0-9._-]{0,62}=[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?' ||
        die "--label $1: write KEY=VALUE, a key of small letters, digits and . _ -, a value of letters, digits and . _ -"
    labels="$labels${labels:+,}\"${1%%=*}\":\"${1#*=}\""
}

checks() {
    [ "$(uname -s)" = Linux ] || die "a host must be a Linux machine"
    [ "$(id -u)" = 0 ] || die "run this as root: curl ... | sudo --preserve-env=BERTH_JOIN_TOKEN sh"
    token=${BERTH_JOIN_TOKEN:-}
    unset BERTH_JOIN_TOKEN
    [ -n "$token" ] || die "BERTH_JOIN_TOKEN is not set: make a join token in the platform's admin, which shows the command"
    matches "$token" 'brj_[A-Za-z0-9_-]{20,100}' || die "BERTH_JOIN_TOKEN is no join token: they begin with brj_"
    matches "$dir$docker_etc" '[A-Za-z0-9/._-]+' || die "only letters, digits and / . _ - in the paths, please"
    case $PORTAL in
    https://*) ;;
    # The token, and the authority that this machine will trust, go over this connection.
    http://localhost | http://localhost:* | http://127.0.0.1 | http://127.0.0.1:*) ;;
    *) die "the portal's address is not https ($PORTAL): nothing secret goes there" ;;
    esac
    if [ -s "$dir/secret" ]; then
        say "this machine has joined already (see $dir); nothing was changed"
        say "to join anew: remove the host in the platform, then rm -r $dir, then run this with a new token"
        exit 0
    fi
}

# --- Programs -------------------------------------------------------------------------------------------------

# Usage: install APT-PACKAGE RPM-PACKAGE. Never reads standard input, which is this script.
install_package() {
    if command -v apt-get >/dev/null; then
        say "installing $1 with apt-get"
        { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "$1"; } \
            </dev/null >&2
    elif command -v dnf >/dev/null && dnf -q info "$2" </dev/null >/dev/null 2>&1; then
        say "installing $2 with dnf"
        dnf -q -y install "$2" </dev/null >&2
    elif command -v yum >/dev/null && yum -q info "$2" </dev/null >/dev/null 2>&1; then
        say "installing $2 with yum"
        yum -q -y install "$2" </dev/null >&2
    else
        return 1
    fi
}

programs() {
    for program in curl openssl; do
        command -v "$program" >/dev/null || install_package "$program" "$program" || die "install $program, then run this again"
    done
    if ! command -v dockerd >/dev/null; then
        [ "$service" = yes ] || die "there is no dockerd: install Docker Engine, then run this again"
        install_package docker.io moby-engine ||
            die "install Docker Engine (https://docs.docker.com/engine/install/), then run this again"
    fi
    engine_ask
    version=$(member "$work/info" ServerVersion)
    [ -n "$version" ] || version=$(dockerd --version | sed -n 's/^Docker version \([^, ]*\).*/\1/p')
    matches "$version" '[0-9][A-Za-z0-9.+~:_-]{0,59}' || die "the version of dockerd cannot be read: '$version'"
    [ "${version%%.*}" -ge 20 ] || die "Docker Engine $version is too old: 20.10 or later"
}

# What a dockerd that runs says of itself, in $work/info; nothing with --no-service, since it may be another one's.
engine_ask() {
    : >"$work/info"
    [ "$service" = yes ] || return 0
    curl --silent --max-time 20 --output "$work/info" --unix-socket /var/run/docker.sock http://localhost/info || :
}

# The options that we give to dockerd may not stand in its file as well: it would not start.
engine_checks() {
    for key in hosts tls tlsverify tlscacert tlscert tlskey live-restore userland-proxy default-address-pools; do
        if [ -f "$docker_etc/daemon.json" ] && grep -q "\"$key\"" "$docker_etc/daemon.json"; then
            die "take \"$key\" out of $docker_etc/daemon.json: this script gives it to dockerd as an option"
        fi
    done
    [ "$service" = yes ] || return 0
    [ -d /run/systemd/system ] ||
        die "systemd does not run here: use --no-service, and start dockerd and berth-host yourself"
    unit=$(systemctl show --property FragmentPath --value docker.service)
    [ -f "$unit" ] || die "there is no docker.service: install Docker Engine as a package, or use --no-service"
    engine_command=$(sed -n 's/^ExecStart=//p' "$unit")
    case $engine_command in
    *"
"* | *\\ | '') die "ExecStart in $unit is not one line: use --no-service" ;;
    /*dockerd*) ;;
    *) die "ExecStart in $unit does not start dockerd: use --no-service" ;;
    esac
    if ! grep -q '"LiveRestoreEnabled": *true' "$work/info" && grep -q '"ContainersRunning": *[1-9]' "$work/info"; then
        die "containers run here, and the restart of Docker would stop them: stop them first (a host is for Berth alone)"
    fi
}

# --- What this machine is -------------------------------------------------------------------------------------

facts() {
    [ -n "$name" ] || name=$(uname -n | cut -d. -f1 | tr '[:upper:]_' '[:lower:]-')
    matches "$name" '[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?' ||
        die "'$name' can't be a host's name: give --name, with small letters, digits and hyphens"
    [ -n "$address" ] || address=$(address_find)
    matches "$address" '[0-9A-Fa-f.:]+' || die "'$address' is no address: give --address IP"
    case $address in
    127.* | 0.* | ::1 | ::) die "the platform can't reach a machine at $address: give --address IP" ;;
    esac
    if command -v ip >/dev/null && ! ip -o addr show | grep -qF " $address/"; then
        die "$address is on no interface of this machine (ip addr): give --address"
    fi
    data_root=${BERTH_DATA_ROOT:-$(member "$work/info" DockerRootDir)}
    data_root=${data_root:-/var/lib/docker}
    matches "$data_root" '/[A-Za-z0-9/._-]+' || die "only letters, digits and / . _ - in Docker's data root, please"
    cpu_millis=$(($(getconf _NPROCESSORS_ONLN) * 1000))
    memory_mb=$(awk '$1 == "MemTotal:" { print int($2 / 1024) }' /proc/meminfo)
    root=$data_root
    while [ ! -d "$root" ]; do root=$(dirname "$root"); done
    disk_mb=$(df -Pk "$root" | awk 'NR == 2 { print int($2 / 1024) }')
    matches "$cpu_millis.$memory_mb.$disk_mb" '[0-9]+[.][0-9]+[.][0-9]+' || die "the machine's size cannot be read"
}

# The source address of the route to the portal.
address_find() {
    portal_host=$(printf '%s\n' "$PORTAL" | sed -e 's,^[a-z]*://,,' -e 's,:[0-9]*$,,' -e 's,[][],,g')
    portal_ip=$(getent ahosts "$portal_host" | awk 'NR == 1 { print $1 }')
    [ -n "$portal_ip" ] && command -v ip >/dev/null || return 0
    ip -o route get "$portal_ip" | sed -n 's/.* src \([^ ]*\).*/\1/p'
}

# --- Joining --------------------------------------------------------------------------------------------------

key_and_request() {
    [ -s "$dir/key.pem" ] || openssl ecparam -name prime256v1 -genkey -noout -out "$dir/key.pem"
    openssl req -new -key "$dir/key.pem" -subj "/CN=$name" -out "$work/csr"
    printf '{"name":"%s","address":"%s","cpu_millis":%s,"memory_mb":%s,"disk_mb":%s,"engine_version":"%s","labels":{%s},"csr":"%s"}' \
        "$name" "$address" "$cpu_millis" "$memory_mb" "$disk_mb" "$version" "$labels" \
        "$(awk '{ printf "%s\\n", $0 }' "$work/csr")" >"$work/body"
}

ask() {
    status=$(
        {
            # On standard input: a command line can be read by every user of the machine.
            printf 'header = "Authorization: Bearer %s"\n' "$token"
            [ -z "$portal_ca" ] || printf 'cacert = "%s"\n' "$portal_ca"
        } | curl --config - --silent --show-error --max-time 60 --output "$work/answer" --write-out '%{http_code}' \
            --header 'Content-Type: application/json' --data-binary "@$work/body" "$PORTAL/api/v1/hosts/join/"
    ) || die "$PORTAL cannot be reached (see above); the token is good as long as no host $name appears in the platform"
    [ "$status" = 201 ] || die "the platform refused ($status): $(member "$work/answer" detail)"
}

# The secret is written last: with it the machine counts as joined.
keep() {
    printf '%b' "$(member "$work/answer" ca)" >"$dir/ca.pem"
    printf '%b' "$(member "$work/answer" certificate)" >"$dir/cert.pem"
    chmod 644 "$dir/ca.pem" "$dir/cert.pem"
    openssl verify -CAfile "$dir/ca.pem" "$dir/cert.pem" >/dev/null || die "the platform's certificate does not fit"
    [ -z "$portal_ca" ] || cp "$portal_ca" "$dir/portal-ca.pem"
    registry=$(member "$work/answer" registry)
    if [ -n "$(member "$work/answer" registry_ca)" ]; then
        matches "$registry" '[A-Za-z0-9.:-]+' || die "the registry's name cannot be read: '$registry'"
        mkdir -p "$docker_etc/certs.d/$registry"
        printf '%b' "$(member "$work/answer" registry_ca)" >"$docker_etc/certs.d/$registry/ca.crt"
        chmod 644 "$docker_etc/certs.d/$registry/ca.crt"
        chmod 755 "$docker_etc" "$docker_etc/certs.d" "$docker_etc/certs.d/$registry"
    fi
    restart=
    [ "$service" = no ] || restart=systemd
    printf "PORTAL='%s'\nDATA_ROOT='%s'\nRESTART='%s'\n" "$PORTAL" "$data_root" "$restart" >"$dir/report.conf"
    reporter_write "$bin/berth-host"
    member "$work/answer" report_secret >"$dir/secret"
}

# Live restore: dockerd reads its certificate only when it starts, and a restart must not stop the tenants' containers.
# Docker's own proxy would carry a stranger's container on the same host around the walls between tenants. Each tenant
# has a network on each host where it runs, and a stock engine has address ranges for about 30.
engine_flags() {
    case $address in *:*) listen="[$address]" ;; *) listen=$address ;; esac
    printf '%s ' -H "tcp://$listen:2376" --tlsverify --tlscacert "$dir/ca.pem" --tlscert "$dir/cert.pem" \
        --tlskey "$dir/key.pem" --live-restore=true --userland-proxy=false
    printf '%s %s\n' --default-address-pool base=10.200.0.0/14,size=26
}

reporter_write() {
    cat >"$1" <<'BERTH_REPORTER'
@REPORTER@
BERTH_REPORTER
    chmod 755 "$1"
}

services() {
    mkdir -p /etc/systemd/system/docker.service.d
    # Last in the alphabet, so that it goes before other drop-ins. The address may come late at boot: try again, always.
    cat >/etc/systemd/system/docker.service.d/zz-berth.conf <<EOF_UNIT
# Written by Berth's join.sh.
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=
ExecStart=$engine_command $(engine_flags)
Restart=always
RestartSec=5
EOF_UNIT
    cat >/etc/systemd/system/berth-host.service <<EOF_UNIT
# Written by Berth's join.sh.
[Unit]
Description=Reports this host to Berth and renews its certificate
After=network-online.target docker.service
Wants=network-online.target
[Service]
ExecStart=$bin/berth-host report
Environment=BERTH_DIR=$dir
Restart=always
RestartSec=10
PrivateTmp=yes
ProtectHome=yes
NoNewPrivileges=yes
[Install]
WantedBy=multi-user.target
EOF_UNIT
    chmod 644 /etc/systemd/system/docker.service.d/zz-berth.conf /etc/systemd/system/berth-host.service
    systemctl daemon-reload
    systemctl enable --quiet docker.service berth-host.service
    systemctl restart docker.service || die "dockerd does not start with TLS: see journalctl -u docker.service"
    systemctl restart berth-host.service
    tries=0
    until printf '' | openssl s_client -connect "$listen:2376" -CAfile "$dir/ca.pem" 2>&1 |
        grep -q 'Verify return code: 0 (ok)'; do
        tries=$((tries + 1))
        [ "$tries" -lt 30 ] || die "dockerd does not answer at $listen:2376: see journalctl -u docker.service"
        sleep 1
    done
}

main() {
    dir=${BERTH_DIR:-/etc/berth/host} docker_etc=${BERTH_DOCKER_ETC:-/etc/docker}
    umask 077
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM HUP
    arguments "$@"
    checks
    programs
    engine_checks
    facts
    mkdir -p "$dir"
    bin=/usr/local/sbin
    [ "$service" = yes ] || bin=$dir
    key_and_request
    say "joining $PORTAL as $name at $address: $cpu_millis millis of CPU, $memory_mb MiB, Docker Engine $version"
    ask
    keep
    case $address in *:*) listen="[$address]" ;; *) listen=$address ;; esac
    if [ "$service" = yes ]; then
        services
        say "done: $name is a host. It takes instances as soon as the platform has reached it at $listen:2376."
    else
        say "done: start dockerd with the options below, and let $dir/berth-host report run beside it"
        engine_flags
    fi
    say "firewall: 2376 from the platform's workers only; 20000-29999 from its gateways and workers only"
}

# In braces: of a script that was cut off on its way nothing runs.
{
    main "$@"
}
