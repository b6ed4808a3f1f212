#!/usr/bin/env bash
# The one entry to everything that is checked.
set -euo pipefail

usage() {
    cat <<'END'
Usage: ./run-tests.sh [STEP]...             every step, or only those named
       ./run-tests.sh tests [ARGUMENT]...   the tests, with pytest's arguments
       ./run-tests.sh --soak [ARGUMENT]...  the long tests, which are left out otherwise

Steps:
  lint    ruff, squawk on the migrations' SQL, and shellcheck where there is one
  types   mypy
  layers  import-linter: an arrow runs down only
  tests   pytest
  alias   pytest on the distribution reana-db, which extends the models of its process
  docs    sphinx, where a warning is an error
  wheel   build it, look into it, install and import it
and, only where it is named:
  coverage  the tests with their coverage, which takes twice as long

The first run makes a virtual environment in .venv and installs into it what is needed; later ones need no
network. PYTHON names another Python to use, in an environment of its own. The tests use the server that
PLATFORM_DB_TEST_URI names, else a container where Docker answers, else an embedded server.
END
}

run_lint() {
    "$bin/ruff" check .
    "$bin/ruff" format --check .
    if command -v shellcheck >/dev/null; then
        shellcheck --external-sources run-tests.sh run-demo.sh .ci/run distributions/reana-db/run-upstream-tests.sh
    fi
    lint_revisions
}

# Each revision by itself: locks on the tables that it creates trouble nobody, those on earlier ones may.
lint_revisions() {
    local revision previous=base
    for revision in $("$bin/python" -c 'from platform_db import schema; print(*schema.revisions())'); do
        "$bin/python" -m platform_db alembic upgrade "$previous:$revision" --sql >"$scratch/$revision.sql"
        previous=$revision
    done
    "$bin/squawk" --config .squawk.toml "$scratch"/*.sql
}

run_types() { "$bin/python" -m mypy; }

run_layers() { "$bin/python" -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'; }

run_tests() { "$bin/python" -m pytest -n auto --maxprocesses 8 "$@"; }

# Before Python 3.12 coverage traces each call of every library, too.
run_coverage() { run_tests --cov --cov-report=term; }

run_alias() { PYTHONPATH=distributions/reana-db "$bin/python" -m pytest -n auto --maxprocesses 8 distributions/reana-db/tests; }

run_soak() { "$bin/python" -m pytest -m soak "$@" || [ $? -eq 5 ]; } # 5: there are none

run_docs() { "$bin/python" -m sphinx -q -W --keep-going -E -b html docs docs/_build/html; }

run_wheel() {
    local wheel listing file
    "$bin/python" -m build --no-isolation --outdir "$scratch/dist" . >"$scratch/build.log" 2>&1 || {
        cat "$scratch/build.log" >&2
        return 1
    }
    wheel=$(echo "$scratch"/dist/*.whl)
    listing=$("$bin/python" -m zipfile --list "$wheel")
    for file in platform_db/py.typed platform_db/migrations/script.py.mako $(
        find platform_db -name '*.sql' -o -name catalogue.json -o -path '*/versions/*.py'
    ); do
        if ! grep -q "^$file " <<<"$listing"; then
            say "The wheel lacks $file."
            return 1
        fi
    done
    make_environment "$scratch/environment" "$bin/python" --no-deps --no-index "$wheel"
    # The dependencies are our environment's; the package itself is not to be found there by its path.
    (
        cd "$scratch"
        PYTHONPATH=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
            environment/bin/python -c '
import platform_db.cli, platform_db.schema
platform_db.schema.alembic_config()
assert platform_db.__file__.startswith(__import__("sys").prefix), platform_db.__file__'
    )
    say "$(basename "$wheel") is complete."
}

cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=.ci/environment.sh
. .ci/environment.sh

# A developer's own settings must not decide how the tests end.
for variable in "${!PLATFORM_DB_@}"; do
    [ "$variable" = PLATFORM_DB_TEST_URI ] || unset "$variable"
done
unset PYTHONPATH PYTHONHOME

# One step runs here; several run one after another, each in a process of its own, and all that fail count.
all=(lint types layers tests alias docs wheel)
steps=()
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage && exit ;;
        lint | types | layers | alias | docs | wheel | coverage) steps+=("$1") ;;
        tests) steps+=(tests) && shift && arguments=("$@") && break ;;
        --soak) steps+=(soak) && shift && arguments=("$@") && break ;;
        *) say "There is no step called $1." && usage >&2 && exit 2 ;;
    esac
    shift
done
[ ${#steps[@]} -gt 0 ] || steps=("${all[@]}")

enter_writable
use_environment dev
if [ ${#steps[@]} -eq 1 ]; then
    bin="$environment/bin"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "run_${steps[0]}" ${arguments[@]+"${arguments[@]}"}
    exit
fi
failed=()
for step in "${steps[@]}"; do
    say "== $step"
    case $step in
        soak) command=(--soak ${arguments[@]+"${arguments[@]}"}) ;;
        tests) command=(tests ${arguments[@]+"${arguments[@]}"}) ;;
        *) command=("$step") ;;
    esac
    "$BASH" run-tests.sh "${command[@]}" </dev/null || failed+=("$step")
done
if [ ${#failed[@]} -gt 0 ]; then
    say "== failed: ${failed[*]}"
    exit 1
fi
say "== passed: ${steps[*]}"
