#!/usr/bin/env bash
# Runs the test suite of reana-db itself, from its source distribution on PyPI, on this package.
set -euo pipefail

usage() {
    cat <<'END'
Usage: distributions/reana-db/run-upstream-tests.sh [--strict] [ARGUMENT]...

Installs platform-db and this package into an environment of their own, in the place of reana-db, downloads
reana-db's source distribution, and runs its tests, with pytest's arguments. Where the download fails, it says
so and does nothing.

  --strict   without the extra transition that a test needs: that test fails

PYTHON names another Python to use. The tests use the server that PLATFORM_DB_TEST_URI names, else a container
where Docker answers, else an embedded server.
END
}

VERSION=0.95.0a8
strict=
case ${1-} in
    -h | --help) usage && exit ;;
    --strict) strict=1 && shift ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=.ci/environment.sh
. .ci/environment.sh

for variable in "${!PLATFORM_DB_@}" "${!REANA_@}" "${!SQLALCHEMY_@}"; do
    [ "$variable" = PLATFORM_DB_TEST_URI ] || unset "$variable"
done
unset PYTHONPATH PYTHONHOME

python=$(find_python)
environment="$PWD/.venv-upstream-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
if [ ! -f "$environment/installed" ] || [ setup.py -nt "$environment/installed" ]; then
    log=$(mktemp)
    make_environment "$environment" "$python" "SQLAlchemy<2.1" "setuptools<81" mock pytest \
        "pytest-reana>=0.95.0a9,<0.96.0" --editable '.[embedded]' --editable distributions/reana-db 2>"$log" || {
        say "Skipped: what the tests need cannot be installed: $(tail -n 1 "$log")"
        exit
    }
    touch "$environment/installed"
fi

archive="$environment/reana_db-$VERSION.tar.gz"
if [ ! -f "$archive" ]; then
    "$environment/bin/python" -m pip download --quiet --no-deps --no-binary :all: --dest "$environment" \
        "reana-db==$VERSION" || {
        say "Skipped: reana-db's source distribution cannot be downloaded."
        exit
    }
fi
suite=$(mktemp -d)
trap 'rm -rf "$suite"' EXIT
tar -xzf "$archive" -C "$suite" --strip-components=1 "reana_db-$VERSION/tests"

cd "$suite"
PATH="$environment/bin:$PATH" python - "$strict" "$@" <<'END'
import os
import secrets
import subprocess
import sys

import sqlalchemy as sa

import reana_db
from platform_db.testing import databases, server

strict, *arguments = sys.argv[1:]
with server.run_server(secrets.token_hex(16)) as running:
    uri = databases.create_database(running.uri, f"{running.prefix}upstream")
    engine = sa.create_engine(uri)
    with engine.connect() as connection:
        version = connection.exec_driver_sql("SHOW server_version").scalar_one()
    engine.dispose()
    print(f"reana-db {reana_db.__version__}, SQLAlchemy {sa.__version__}, PostgreSQL {version}", flush=True)
    environment = {**os.environ, "PLATFORM_DB_URI": uri, "REANA_SECRET_KEY": "of the tests"}
    subprocess.run(["reana-db", "init"], env={**environment, "REANA_LOG_LEVEL": "ERROR"}, check=True)
    if not strict:
        reason = "a test sets a rule that it has inactivated to pending"
        allow = ["guard", "allow", "workspace_retention_rule", "inactive", "pending", "--reason", reason]
        subprocess.run(["platform-db", *allow], env=environment, check=True)
    tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rfE", "tests", *arguments]
    ended = subprocess.run(tests, env=environment, check=False)
    databases.drop_database(running.uri, f"{running.prefix}upstream")
sys.exit(ended.returncode)
END
