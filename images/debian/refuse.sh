# For entrypoints: settings that are wrong end the container with one line that says what to change (sysexits: 78).
refuse() {
    echo "$1" >&2
    exit 78
}

port_or() {
    PORT=${PORT:-$1}
    case $PORT in
    '' | *[!0-9]*) refuse "PORT must be a number" ;;
    esac
}

# A name of a variable, and its value. Never without; and nothing that a configuration or SQL would read otherwise.
password_needed() {
    [ -n "$2" ] || refuse "$1 is empty: set it to a long random text. There is no default."
    [ "${#2}" -ge 12 ] || refuse "$1 is too short: 12 characters at least."
    case $2 in
    *[!A-Za-z0-9._~+-]*) refuse "$1 may hold letters, digits and . _ ~ + - only." ;;
    esac
}

name_checked() {
    case $2 in
    '' | [!a-z]* | *[!a-z0-9_]*) refuse "$1 may hold small letters, digits and _, and begins with a letter." ;;
    esac
    [ "${#2}" -le 32 ] || refuse "$1 is too long: 32 characters at most."
}
