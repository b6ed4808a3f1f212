#!/usr/bin/env bash
# Shows the platform on an embedded PostgreSQL. What follows on the command line goes to: platform-db demo.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=.ci/environment.sh
. .ci/environment.sh

enter_writable
use_environment embedded
exec "$environment/bin/python" -m platform_db demo "$@"
