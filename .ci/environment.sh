# Sourced by run-tests.sh and run-demo.sh, in the project's directory, with bash: makes a virtual environment
# with nothing but Python at hand, and finds it again the next time.

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

# make_environment DIRECTORY PYTHON: with the first tool that does it.
make_environment() {
    # Debian's python3 has the module venv, but not always ensurepip, which it needs.
    uv venv --quiet --no-project --python "$2" "$1" 2>/dev/null && return
    rm -rf "$1"
    "$2" -m venv "$1" >/dev/null 2>&1 && return
    rm -rf "$1"
    virtualenv --quiet --python "$2" "$1" 2>/dev/null && return
    rm -rf "$1"
    say "No virtual environment can be made in $1: install uv, virtualenv, or Python's venv (Debian: python3-venv)."
    return 1
}

# install_into DIRECTORY ARGUMENT...: as pip install would.
install_into() {
    local python="$1/bin/python"
    shift
    if "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet --disable-pip-version-check "$@"
    else
        uv pip install --quiet --python "$python" "$@"
    fi
}

# use_environment EXTRA: set $environment to one that has this package, in place, with that extra.
use_environment() {
    local python key
    environment="$PWD/.venv"
    if [ -n "${PYTHON-}" ]; then
        python=$(find_python)
        environment+="-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    fi
    key=$({ pwd && cat setup.py pyproject.toml; } | cksum)
    if ! "$environment/bin/python" -c '' 2>/dev/null; then
        python=${python:-$(find_python)}
        say "Making $environment, once."
        rm -rf "$environment"
        make_environment "$environment" "$python"
    fi
    # Whoever has the tools for development has what the demonstration needs.
    for installed in "$1" dev; do
        [ "$(cat "$environment/installed-$installed" 2>/dev/null)" != "$key" ] || return 0
    done
    say "Installing platform-db[$1] into it, once."
    install_into "$environment" --editable ".[$1]" || {
        say "The packages could not be installed; the first time, that needs the network."
        return 1
    }
    printf '%s\n' "$key" >"$environment/installed-$1"
}
