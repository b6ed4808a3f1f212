#!/usr/bin/env bash
# Runs redun's own test suite, which its distribution on PyPI contains, on this package's backend and on redun's.
set -euo pipefail

usage() {
    cat <<'END'
Usage: tests/run-redun-suite.sh [stock|beside|ours]... [FILE]...

Installs platform-db, redun and what redun's tests need into an environment of their own, and runs redun's tests, a file
at a time, with each of these backends. Then it prints the counts, and each test that does not end the same way with all
of them. Where the packages cannot be downloaded, it says so and does nothing.

  stock    redun's own backend
  beside   redun's own backend, in processes that have platform-db's, too
  ours     platform-db's backend in the place of each that redun makes: one database, a tenant for each SQLite database

FILE is a name such as test_db.py; by default all are run. Logs and reports are in the environment's directory, in results.
PYTHON names another Python to use: 3.10 or 3.11, for what the tests need is of that time. The tests use the server that
PLATFORM_DB_TEST_URI names, else a container where Docker answers, else an embedded server.
END
}

VERSION=0.44.1
case ${1-} in
    -h | --help) usage && exit ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=.ci/environment.sh
. .ci/environment.sh

for variable in "${!PLATFORM_DB_@}" "${!REDUN_@}" "${!AWS_@}"; do
    [ "$variable" = PLATFORM_DB_TEST_URI ] || unset "$variable"
done
unset PYTHONPATH PYTHONHOME

python=$(find_python)
environment="$PWD/.venv-redun-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
if [ ! -f "$environment/installed" ] || [ setup.py -nt "$environment/installed" ]; then
    log=$(mktemp)
    # The versions are those that redun's own development pins.
    make_environment "$environment" "$python" --editable '.[embedded]' "redun[azure,google-batch,k8s]==$VERSION" \
        adlfs==2024.12.0 aiobotocore==2.12.3 awscli==1.32.69 azure-ai-ml==1.23.1 boto3==1.34.69 \
        botocore==1.34.69 freezegun google-cloud-batch==0.9.0 google-cloud-compute==1.11.0 kubernetes==22.6 \
        'moto[batch,glue,s3]==3.1.10' numpydoc 'pyarrow>17' 'pytest<9' pytest-timeout s3fs==2025.5.1 \
        'setuptools<81' 'urllib3<2' 'vcrpy<5' 'aiohttp<3.12' 'pandas<3' 2>"$log" || {
        say "Skipped: what the tests need cannot be installed: $(tail -n 1 "$log")"
        exit
    }
    touch "$environment/installed"
fi

# A directory with the package alone: the tests are run in a copy of it, as in redun's own checkout.
suite=$(mktemp -d)
trap 'rm -rf "$suite"' EXIT
cp -R "$environment"/lib/python*/site-packages/redun "$suite"

PYTHONPATH=$PWD "$environment/bin/python" -m tests.redun_suite_run --results "$environment/results" "$suite" "$@"
