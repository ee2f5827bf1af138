#!/bin/sh
# Tells the platform every few seconds what this host has left, and renews the certificate of its Docker Engine.
# Installed by join.sh; run by the systemd service berth-host.
#
#   berth-host report           until it is stopped
#   berth-host report --once    one report; the exit status says whether it arrived
set -eu

EVERY_S=10
# After an answer that says that the host was removed: seconds.
SLOW_S=300
# After a restart of the engine that was not possible: reports.
RESTART_REST=30

say() { printf 'berth-host: %s\n' "$*" >&2; }

# Fails with $1, so that the caller can say it once and not every ten seconds.
failed() {
    problem=$1
    return 1
}

# --- Measuring ------------------------------------------------------------------------------------------------

# Sets cpu_idle and cpu_total: ticks since the machine started, of all cores (proc(5), /proc/stat).
cpu_ticks() {
    read -r _ user nice system idle iowait irq softirq steal _ </proc/stat
    cpu_idle=$((idle + iowait))
    cpu_total=$((user + nice + system + idle + iowait + irq + softirq + steal))
}

# Sets permille: how much of the time since the last call was idle.
cpu_measure() {
    idle_before=$cpu_idle total_before=$cpu_total
    cpu_ticks
    passed=$((cpu_total - total_before))
    permille=1000
    [ "$passed" -le 0 ] || permille=$(((cpu_idle - idle_before) * 1000 / passed))
    # A machine that came back from a suspension may count backwards for a moment.
    if [ "$permille" -lt 0 ]; then permille=0; fi
    if [ "$permille" -gt 1000 ]; then permille=1000; fi
}

# Sets memory_mb, disk_mb and disk_mb_idle.
room_measure() {
    memory_mb=$(awk '$1 == "MemAvailable:" { print int($2 / 1024) }' /proc/meminfo)
    root=$DATA_ROOT
    while [ ! -d "$root" ]; do root=$(dirname "$root"); done
    # POSIX: -P is one line for each file system, -k is in KiB.
    disk=$(df -Pk "$root" | awk 'NR == 2 { print int($2 / 1024), int($4 / 1024) }')
    disk_mb=${disk% *} disk_mb_idle=${disk#* }
}

# --- Asking the platform --------------------------------------------------------------------------------------

# Usage: member FILE NAME: a text of a flat JSON object, with its escaped line ends. Nothing if it is not there.
member() { tr -d '\n' <"$1" | sed -n "s/.*\"$2\": *\"\([^\"]*\)\".*/\1/p"; }

# Usage: send [CSR]: sends what was measured last. The answer is in $work/answer.
send() {
    printf '{"cpu_idle_permille":%d,"memory_mb_idle":%d,"disk_mb":%d,"disk_mb_idle":%d,"serial":"%s","csr":"%s"}' \
        "$permille" "$memory_mb" "$disk_mb" "$disk_mb_idle" "$serial" "${1:-}" >"$work/body"
    status=$(
        {
            # On standard input: a command line can be read by every user of the machine.
            printf 'header = "Authorization: Bearer %s"\n' "$(cat "$DIR/secret")"
            [ ! -f "$DIR/portal-ca.pem" ] || printf 'cacert = "%s"\n' "$DIR/portal-ca.pem"
        } | curl --config - --silent --show-error --max-time 20 --output "$work/answer" --write-out '%{http_code}' \
            --header 'Content-Type: application/json' --data-binary "@$work/body" "$PORTAL/api/v1/hosts/report/" \
            2>"$work/error"
        # How long it took is another each time, and what was said before is not said again.
    ) || { failed "the platform cannot be reached: $(sed -n '1{s/ after [0-9]* ms//;p;q;}' "$work/error")" || return 1; }
    [ "$status" = 200 ] || failed "the platform answered $status: $(member "$work/answer" detail)"
}

# --- The certificate ------------------------------------------------------------------------------------------

serial_read() { serial=$(openssl x509 -noout -serial -in "$DIR/cert.pem" | sed 's/^serial=//'); }

# Whether the new certificate is of the authority that this host joined, and for our key. Who answers in the platform's
# place must not choose whom dockerd trusts: the authority comes with joining, and never with a renewal.
fits() {
    openssl verify -CAfile "$DIR/ca.pem" "$DIR/cert.pem.new" >/dev/null 2>&1 || return 1
    [ "$(openssl x509 -noout -pubkey -in "$DIR/cert.pem.new")" = "$(openssl pkey -pubout -in "$DIR/key.pem")" ]
}

# Asks for a new certificate for the same key, and puts it in place of the old one in one step.
renew() {
    openssl req -new -key "$DIR/key.pem" -subj "/CN=berth-host" -out "$work/csr" 2>"$work/error" ||
        { failed "openssl made no request: $(sed -n '1{s/ after [0-9]* ms//;p;q;}' "$work/error")" || return 1; }
    send "$(awk '{ printf "%s\\n", $0 }' "$work/csr")" || return 1
    [ -n "$(member "$work/answer" certificate)" ] || return 0
    printf '%b' "$(member "$work/answer" certificate)" >"$DIR/cert.pem.new"
    fits || {
        rm -f "$DIR/cert.pem.new"
        failed "the new certificate does not fit; the old one stays" || return 1
    }
    # First the note, so that a crash right here leaves no engine with a certificate that nobody replaces.
    : >"$DIR/restart-needed"
    mv "$DIR/cert.pem.new" "$DIR/cert.pem"
    serial_read
    say "the engine's certificate was renewed: $(openssl x509 -noout -enddate -in "$DIR/cert.pem")"
}

# dockerd reads its certificate when it starts and never again (moby/moby#23936).
engine_restart() {
    if [ "$RESTART" != systemd ]; then
        say "restart dockerd yourself: it reads the new certificate in $DIR only then"
        rm -f "$DIR/restart-needed"
        return 0
    fi
    # With live restore the containers run on meanwhile; without, a restart would stop the tenants' containers.
    curl --silent --max-time 20 --unix-socket /var/run/docker.sock http://localhost/info 2>/dev/null |
        grep -q '"LiveRestoreEnabled": *true' ||
        { failed "dockerd needs a restart for its new certificate, but has no live-restore: see docker.service" || return 1; }
    systemctl restart docker.service || { failed "docker.service did not restart" || return 1; }
    rm -f "$DIR/restart-needed"
    say "dockerd was restarted with the new certificate; its containers ran on"
}

# --- Round and round ------------------------------------------------------------------------------------------

once() {
    cpu_measure
    room_measure
    send || return 1
    if grep -q '"renew": *true' "$work/answer"; then renew || return 1; fi
}

# Reports go on at their pace while the engine can't be restarted.
engine_mind() {
    [ -f "$DIR/restart-needed" ] || return 0
    rest=$((rest - 1))
    [ "$rest" -le 0 ] || return 0
    engine_restart || {
        say "$problem"
        rest=$RESTART_REST
        return 1
    }
}

round_and_round() {
    said='' rest=0
    while :; do
        pause=$EVERY_S problem=
        once || {
            case "$problem" in *" 404: "*) pause=$SLOW_S ;; esac
        }
        # Said when it changes: a portal that is away for an hour is two lines.
        if [ "$problem" != "$said" ]; then
            say "${problem:-reports arrive again}"
            said=$problem
        fi
        engine_mind || :
        sleep "$pause"
    done
}

main() {
    DIR=${BERTH_DIR:-/etc/berth/host}
    case "${1:-} ${2:-}" in
    "report " | "report --once") ;;
    *)
        say "usage: berth-host report [--once]"
        exit 2
        ;;
    esac
    if [ ! -r "$DIR/report.conf" ] || [ ! -r "$DIR/secret" ]; then
        say "this machine has not joined ($DIR/secret is missing): run join.sh first, as root"
        exit 1
    fi
    # PORTAL, DATA_ROOT and RESTART, as join.sh checked and wrote them.
    # shellcheck source=/dev/null
    . "$DIR/report.conf"
    umask 077
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 143' INT TERM HUP
    problem=
    serial_read
    cpu_ticks
    sleep 1
    if [ "${2:-}" = --once ]; then
        rest=0
        once || {
            say "$problem"
            exit 1
        }
        say "reported"
        engine_mind
    else
        say "reporting to $PORTAL every $EVERY_S s"
        round_and_round
    fi
}

main "$@"
