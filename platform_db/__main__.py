"""``python -m platform_db`` and ``platform-db`` are the command line."""

import os
import signal


def main() -> None:
    """Run the command line; as process 1, too, SIGTERM ends it from the first moment on."""
    if os.getpid() == 1:
        # The kernel ignores a signal that process 1 has no handler for, and the imports below take a while.
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))

    from platform_db import cli

    cli.main(prog_name="platform-db")


if __name__ == "__main__":
    main()
