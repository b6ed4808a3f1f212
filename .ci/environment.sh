# Sourced by run-tests.sh and run-demo.sh, in the project's directory, with bash: makes a virtual environment
# with nothing but Python at hand, and finds it again the next time. What pip writes into bin is not run by its name:
# its first line does not survive a path with a $ in it.

say() { printf '%s\n' "$*" >&2; }

# Print a command that starts a Python which is new enough.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
        [ "$candidate" != "${PYTHON-}" ] || break
    done
    say "There is no Python 3.10 or newer${PYTHON:+ at PYTHON=$PYTHON}: install one, or set PYTHON to it."
    return 1
}

# make_environment DIRECTORY PYTHON ARGUMENT...: with the first tool that can make it, and can install into it
# what pip would be given. (Debian's venv may lack ensurepip; uv does not read pip's configuration.)
make_environment() {
    local directory=$1 python=$2 tool log
    shift 2
    log=$(mktemp)
    for tool in "uv venv --quiet --no-project --python" "$python -m venv" "virtualenv --quiet --python"; do
        [ "$tool" = "$python -m venv" ] || command -v "${tool%% *}" >/dev/null || continue
        rm -rf "$directory"
        case $tool in
            *"-m venv") "$python" -m venv "$directory" ;;
            *) $tool "$python" "$directory" ;;
        esac >>"$log" 2>&1 && install_into "$directory" "$@" 2>&1 | tee -a "$log" | show_progress &&
            rm -f "$log" && return
    done
    rm -rf "$directory"
    explain "$log" "No environment could be made in $directory, which needs uv, virtualenv or Python's venv" \
        "(Debian: python3-venv) and, the first time, the network"
    return 1
}

# explain LOG MESSAGE...: print the log, and last of all the message with the cause.
explain() {
    local log=$1 cause
    shift
    cat "$log" >&2
    cause=$(grep -E '^ *(error|ERROR|[A-Za-z.]*(Error|Exception)): ' "$log" |
        grep -v -e subprocess-exited-with-error -e 'Failed to build' | tail -n 1) ||
        cause=$(tail -n 1 "$log")
    rm -f "$log"
    say "$*: ${cause:-no reason was given}"
}

# install_into DIRECTORY ARGUMENT...: as pip install would.
install_into() {
    local python="$1/bin/python"
    shift
    if "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip install --progress-bar off --disable-pip-version-check "$@"
    else
        uv pip install --python "$python" "$@"
    fi
}

# Show what is read: on a terminal as one line that changes, elsewhere as a line every five seconds.
show_progress() {
    local line next=0 columns
    columns=$(tput cols 2>/dev/null || echo 80)
    while IFS= read -r line; do
        if [ -t 2 ]; then
            printf '\r\033[K%s' "${line:0:columns-1}" >&2
        elif [ "$SECONDS" -ge "$next" ]; then
            say "${line:0:columns-1}"
            next=$((SECONDS + 5))
        fi
    done
    [ ! -t 2 ] || printf '\r\033[K' >&2
}

# Go on in a copy where the checkout cannot be written to: environments, caches and builds are made inside it.
enter_writable() {
    local copy
    [ ! -w . ] || return 0
    copy="${XDG_CACHE_HOME:-$HOME/.cache}/platform-db/$(pwd | cksum | tr ' ' -)"
    say "$PWD cannot be written to: going on in a copy, $copy."
    mkdir -p "$copy"
    find "$copy" -mindepth 1 -maxdepth 1 ! -name '.venv*' -exec rm -rf {} +
    tar --exclude='./.venv*' --exclude=./.git -cf - . | tar --no-same-owner -xf - -C "$copy"
    chmod -R u+w "$copy"
    cd "$copy"
}

# use_environment EXTRA: set $environment to one that has this package, in place, with that extra.
use_environment() {
    local python="" key installed log
    environment="$PWD/.venv"
    if [ -n "${PYTHON-}" ]; then
        python=$(find_python)
        environment+="-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    fi
    # The tools' configuration may change without anything to install.
    key=$({ pwd && cat setup.py && sed '/^\[tool/,$d' pyproject.toml; } | cksum)
    # Whoever has the tools for development has what the demonstration needs.
    for installed in "$1" dev; do
        if [ "$(cat "$environment/installed-$installed" 2>/dev/null)" = "$key" ] &&
            "$environment/bin/python" -c '' 2>/dev/null; then
            return
        fi
    done
    say "Installing platform-db[$1] into $environment, once."
    if "$environment/bin/python" -c '' 2>/dev/null; then
        log=$(mktemp)
        install_into "$environment" --editable ".[$1]" 2>&1 | tee "$log" | show_progress || {
            explain "$log" "That failed; where it should not have, remove $environment and try again"
            return 1
        }
        rm -f "$log"
    else
        python=${python:-$(find_python)}
        make_environment "$environment" "$python" --editable ".[$1]"
    fi
    printf '%s\n' "$key" >"$environment/installed-$1"
}

# install_pgbouncer: unpack Debian's package into the environment where no PgBouncer is installed; root is not needed.
install_pgbouncer() {
    local place="$environment/pgbouncer" downloads
    PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v pgbouncer >/dev/null && return
    [ ! -x "$place/usr/sbin/pgbouncer" ] || return 0
    downloads=$(mktemp -d)
    if (
        cd "$downloads"
        # The libraries that a machine with Python may lack.
        libraries=$(apt-cache depends pgbouncer | sed -n 's/.*Depends: \(lib\(c-ares\|event\)[^ ]*\)$/\1/p')
        # shellcheck disable=SC2086 # a list of names
        timeout 60 apt-get download pgbouncer $libraries
        for package in ./*.deb; do dpkg -x "$package" "$place"; done
    ) >"$downloads/log" 2>&1 && [ -x "$place/usr/sbin/pgbouncer" ]; then
        rm -rf "$downloads"
        return
    fi
    say "There is no pgbouncer, and Debian's package cannot be had: the tests that need it are skipped."
    rm -rf "$downloads" "$place"
    return 1
}
