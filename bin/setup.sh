#!/usr/bin/env bash
# All that bin/demo and bin/test need on a Debian 12 or Ubuntu machine that has only git and a shell: Debian
# packages, .venv, front-end packages, translations. Safe to repeat; under a second when there is nothing to do.
#   bin/setup.sh [FILE...]     FILE: more Debian packages, as in stack/apt-packages.txt
set -euo pipefail

lists=()
for list in "$@"; do lists+=("$(realpath "$list")"); done
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
# On Debian an ordinary user's PATH lacks the directories where haproxy, dockerd and iptables are.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
# pip, uv and npm keep caches there; a service manager or a container may leave it unset.
if [ -z "${HOME:-}" ] || [ ! -d "$HOME" ]; then
    HOME=$(getent passwd "$(id -u)" | cut -d: -f6)
    [ -d "$HOME" ] || HOME=/tmp
    export HOME
fi

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

# --- Debian packages ---------------------------------------------------------------------------------------

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# Usage: present CHECK; the kinds are described in stack/apt-packages.txt.
present() {
    local what=${1#*:} python
    case $1 in
    cmd:*) command -v "$what" >/dev/null ;;
    file:*) compgen -G "$what" >/dev/null ;;
    static:*) [ -x "$what" ] && ! ldd "$what" >/dev/null 2>&1 ;;
    python-venv) [ -x .venv/bin/python ] || { python=$(find_python) && "$python" -c 'import venv, ensurepip' 2>/dev/null; } ;;
    apparmor) [ ! -d /sys/module/apparmor ] || command -v apparmor_parser >/dev/null ;;
    *) fail "stack/apt-packages.txt: unknown check $1" ;;
    esac
}

missing_packages() {
    local package check reason
    while read -r package check reason; do
        case $package in '' | '#'*) continue ;; esac
        : "$reason"
        present "$check" || printf '%s ' "$package"
    done < <(cat stack/apt-packages.txt ${lists[@]+"${lists[@]}"})
}

policy=/usr/sbin/policy-rc.d
policy_is_ours=
remove_policy() {
    [ -z "$policy_is_ours" ] || as_root rm -f "$policy"
    policy_is_ours=
}

install_packages() {
    local packages=("$@")
    command -v apt-get >/dev/null ||
        fail "these are missing, and this machine has no apt-get to install them with: ${packages[*]}"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail "as root: apt-get install ${packages[*]}   (there is no sudo here)"
        say "sudo is used to install Debian packages: ${packages[*]}"
    else
        say "installing Debian packages: ${packages[*]}"
    fi
    # Berth starts its own servers; the packages must not start theirs, which would hold ports and stay.
    # See /usr/share/doc/init-system-helpers/README.policy-rc.d.gz.
    if [ ! -e "$policy" ]; then
        policy_is_ours=yes
        trap remove_policy EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    local apt=(env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get -q -y
        -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0)
    local try log
    log=$(mktemp)
    for try in 1 2; do
        if as_root "${apt[@]}" update >"$log" 2>&1 &&
            as_root "${apt[@]}" install --no-install-recommends "${packages[@]}" >>"$log" 2>&1; then
            rm -f "$log"
            remove_policy
            return
        fi
        say "apt-get failed (try $try of 2); its last lines:"
        tail -n 15 "$log" >&2
    done
    fail "the Debian packages could not be installed: ${packages[*]}; the whole log is $log"
}

read -r -a missing <<<"$(missing_packages)" || true
if [ "${#missing[@]}" -gt 0 ]; then
    install_packages "${missing[@]}"
    read -r -a missing <<<"$(missing_packages)" || true
    # A leftover here is not yet a failure: Python is checked below, and a part names what it needs.
    [ "${#missing[@]}" = 0 ] || say "still missing after the installation: ${missing[*]}"
fi

# --- Python ------------------------------------------------------------------------------------------------

python=$(find_python) || fail "Python 3.11 or later is needed; found: $(python3 --version 2>&1 || echo none)"
# Two set-ups at once would write the same files.
exec 9<"$root"
flock 9

stamp=.venv/.berth-stamp
wanted=$(cat requirements-dev.txt bin/setup.sh stack/uv_settings.py | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/python ] && ! .venv/bin/python -c '' 2>/dev/null; then
    say ".venv is of a Python that is gone: making it anew"
    rm -rf .venv
fi
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    [ ! -e .venv ] || [ -w .venv ] || fail ".venv belongs to another user: run as that one, or remove it"
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    # Into a variable first: in "eval $(...)" an error would go unseen.
    settings=$(.venv/bin/python stack/uv_settings.py)
    eval "$settings"
    uv=$(grep -E '^uv==' requirements-dev.txt | cut -d' ' -f1)
    if ! .venv/bin/uv --version 2>/dev/null | grep -qF "uv ${uv#uv==} "; then
        say "installing $uv"
        .venv/bin/python -m pip --disable-pip-version-check -q install "$uv"
    fi
    say "installing the Python packages of requirements-dev.txt"
    VIRTUAL_ENV="$root/.venv" .venv/bin/uv pip sync -q requirements-dev.txt
    # A platform is a dozen processes; where they may not write byte code, each would compile all of it at each start.
    .venv/bin/python -m compileall -q -j 0 .venv/lib || say "some packages can't be compiled; they start slower"
    printf '%s\n' "$wanted" >"$stamp"
fi

.venv/bin/python -m compileall -q -j 0 apps gateway portal stack workers

# --- Front-end packages and translations -------------------------------------------------------------------

if [ -f portal/web/build.sh ]; then
    if [ -z "${NODE_EXTRA_CA_CERTS:-}" ] && [ -f /etc/ssl/certs/ca-certificates.crt ]; then
        export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
    fi
    sh portal/web/build.sh
fi

while IFS= read -r source; do
    compiled=${source%.po}.mo
    if [ "$source" -nt "$compiled" ]; then
        # What "django-admin compilemessages" runs, without the second that it takes to find out.
        msgfmt --check-format -o "$compiled" "$source"
    fi
done < <(find apps portal -name '*.po' 2>/dev/null)
