"""``python -m platform_db`` and ``platform-db`` are the command line."""

import os
import signal
import sys


def main() -> None:
    """Run the command line; SIGTERM, as process 1, too, and Ctrl-C end it from the first moment on."""
    if os.getpid() == 1:
        # The kernel ignores a signal that process 1 has no handler for, and the imports below take a while.
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))

    try:
        from platform_db import cli
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    cli.main(prog_name="platform-db")


if __name__ == "__main__":
    main()
